"""A night under way: what it is to do, what is done of it, and what failed."""

from __future__ import annotations

from dataclasses import dataclass, field

from bathyscope.config import Config
from bathyscope.runs.record import now
from bathyscope.stages.nights.agenda import Agenda
from bathyscope.stages.nights.extraction import slice_facts
from bathyscope.stages.nights.ledger import Ledger, Pair
from bathyscope.stages.nights.watched import Checkpoint, WatchedFile
from bathyscope.values import Json


@dataclass
class Night:
    """What there is to do, and what became of it."""

    agenda: Agenda
    checkpoints: dict[str, Checkpoint]
    """By name, all that are known."""
    seen: list[WatchedFile]
    """All files that are there."""
    notes: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by the slice, the file or the extraction."""
    done: list[Pair] = field(default_factory=list)
    read: list[WatchedFile] = field(default_factory=list)
    """Of the new files, those that became the slice."""
    steps: Json = field(default_factory=dict)
    """Seconds and memory of every step."""
    started: str = field(default_factory=now)

    def add(self, name: str, figures: Json, peak_bytes: int) -> None:
        """A step is done: what `carry_out` tells a record."""
        self.steps[name] = figures


def into_ledger(config: Config, ledger: Ledger, night: Night) -> None:
    """Note what the next night must know of this one."""
    agenda, name = night.agenda, night.agenda.slice_name
    ledger.checkpoints |= {each.name: each for each in agenda.checkpoints}
    if night.read and name not in night.failed:
        ledger.files |= {file.path: file for file in night.read}
        ledger.slices[name] = slice_facts(config, name, agenda.night, len(night.read))
    known = ledger.digests()
    # Copies under other names: their bytes need not be read again every night.
    ledger.files |= {file.path: file for file in night.seen if file.digest in known}
    ledger.done += night.done
    ledger.pending = [
        pair for pair in agenda.pairs if pair not in night.done and pair.slice in ledger.slices
    ]
