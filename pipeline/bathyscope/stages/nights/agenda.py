"""What a night is to do: the new files, the new checkpoints, and who reads what.

New text is one slice, which the newest checkpoints read. A new checkpoint reads the newest slices
of earlier text too, so that it can be compared with the one before it on the same text. What failed
before is tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from bathyscope.stages.nights.ledger import Ledger, Pair
from bathyscope.stages.nights.watched import Checkpoint, Note, WatchedFile
from bathyscope.values import Json


@dataclass(frozen=True)
class Agenda:
    """The work of one night. A night that was interrupted goes on with the one that it had."""

    night: int
    files: list[WatchedFile] = field(default_factory=list)
    """New text; together they are the slice `slice_name`."""
    checkpoints: list[Checkpoint] = field(default_factory=list)
    """New ones."""
    pairs: list[Pair] = field(default_factory=list)

    @property
    def slice_name(self) -> str:
        """What the new slice is called."""
        return f"{self.night:06d}"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.pairs or self.files or self.checkpoints)

    def to_json(self) -> Json:
        """A JSON form that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Json) -> Agenda:
        """The agenda that `to_json` wrote."""
        return cls(
            night=record["night"],
            files=[WatchedFile(**row) for row in record["files"]],
            checkpoints=[Checkpoint(**row) for row in record["checkpoints"]],
            pairs=[Pair(**row) for row in record["pairs"]],
        )


def agenda_of(
    night: int,
    ledger: Ledger,
    checkpoints: Sequence[Checkpoint],
    files: Sequence[WatchedFile],
    *,
    newest: int,
    backfill: int,
    note: Note,
) -> Agenda:
    """What is new since the ledger was written, and the extractions that follow from it.

    `checkpoints` are those that are there, the newest last. The `newest` of them and all new ones
    read new text; a new one reads the `backfill` newest slices as well, all for 0.
    """
    if files and not checkpoints:
        note("there is no checkpoint yet, so the text waits")
    new_files = _new_files(ledger, files, note) if checkpoints else []
    new = [each for each in checkpoints if each.name not in ledger.checkpoints]
    made = Agenda(night, new_files, new)
    there = {each.name for each in checkpoints}
    wanted: dict[Pair, None] = {}
    for pair in ledger.pending:
        if pair.checkpoint in there:
            wanted[pair] = None
        else:
            note(f"{pair.checkpoint} is no longer there: it will not read slice {pair.slice}")
    earlier = list(ledger.slices)
    for each in new:
        wanted |= dict.fromkeys(Pair(each.name, name) for name in earlier[-backfill or None :])
    if new_files:
        readers = [*checkpoints[-newest:], *new]
        names = [each.name for each in checkpoints if each in readers]
        wanted |= dict.fromkeys(Pair(name, made.slice_name) for name in names)
    return Agenda(night, new_files, new, list(wanted))


def _new_files(ledger: Ledger, files: Sequence[WatchedFile], note: Note) -> list[WatchedFile]:
    """Files that no night has read: of bytes that were read under another name there is no more."""
    known, found = ledger.digests(), []
    changed = copies = 0
    for file in files:
        before = ledger.files.get(file.path)
        if before is not None and before.digest == file.digest:
            continue
        if file.digest in known:
            copies += 1
            continue
        changed += before is not None
        known.add(file.digest)
        found.append(file)
    if copies:
        note(f"{copies} file(s) hold what another file holds and are left out")
    if changed:
        note(f"{changed} file(s) are other than when they were read, and are read again")
    return found
