"""nightly: what is new is extracted, compared with earlier nights, and published with a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from bathyscope.commands.night_command import start_command
from bathyscope.commands.progress import Screen, size
from bathyscope.commands.run import Step, carry_out
from bathyscope.config import Config
from bathyscope.errors import BathyscopeError
from bathyscope.pages.night import text_findings
from bathyscope.stages.nights.agenda import Agenda, agenda_of
from bathyscope.stages.nights.extraction import (
    STAGES,
    extraction_run,
    is_observed,
    slice_run,
    unreadable,
)
from bathyscope.stages.nights.findings import write_findings
from bathyscope.stages.nights.history import Nights, beat, begin_night, end_night, open_nights
from bathyscope.stages.nights.lease import Holding, one_night
from bathyscope.stages.nights.ledger import Pair, drop_older
from bathyscope.stages.nights.merged import drop_replaced
from bathyscope.stages.nights.night import Night, into_ledger
from bathyscope.stages.nights.retention import let_go, remove_forgotten
from bathyscope.stages.nights.watched import checkpoints_of, files_of

_STRAGGLER_S = 1800.0
"""A worker that hangs has lost its unit after this time, and is replaced after thrice as long."""
_MOST_NIGHTS = 2
"""In one call: the one that was interrupted, and what has come in since."""


def nightly(
    config: Config,
    say: Callable[[str], None],
    *,
    screen: Screen | None = None,
    clock: Callable[[], float] = time.time,
) -> bool:
    """Do what is new, publish it, and print what changed; whether nothing failed.

    With nothing new a heartbeat is all that is written. What was interrupted goes on first, and
    what has come in since follows. An extraction that fails is named, takes no other with it, and
    is tried again the next night. Raises `ConfigError` for what cannot be, `IdentityMismatch` where
    earlier nights were of another dictionary, and `JobError` while another night is under way.
    """
    screen = screen or Screen()
    # The first unit that is observed has the spliced losses as well, and takes longer than others.
    patience = max(config.cluster.straggler_least_s, _STRAGGLER_S)
    config = replace(config, cluster=replace(config.cluster, straggler_least_s=patience))
    nights = open_nights(config)
    well = True
    with one_night(nights.objects, seconds=config.nightly.lease_s) as holding:
        for _ in range(_MOST_NIGHTS):
            # Read again under the lease: another process may just have ended a night.
            nights = open_nights(config)
            went_on = nights.agenda is not None
            night = _begin(config, nights, screen, clock())
            if night is None:
                beat(nights, told="nothing new")
                say(f"nightly    nothing new since night {nights.last}")
                break
            well = _do(config, nights, night, holding, screen, say) and well
            if not went_on:
                break
    return well


def _begin(config: Config, nights: Nights, screen: Screen, at: float) -> Night | None:
    """The night that is to be done: the one that was interrupted, or what is new; None for none."""
    notes: list[str] = []
    checkpoints = checkpoints_of(config, now=at, note=notes.append)
    files = files_of(config, nights.ledger.files, now=at, note=notes.append)
    agenda = nights.agenda
    if agenda is None:
        agenda = agenda_of(
            nights.last + 1,
            nights.ledger,
            checkpoints,
            files,
            newest=config.nightly.newest,
            backfill=config.nightly.backfill,
            note=notes.append,
        )
        for text in notes:
            screen.line(f"note: {text}")
        if agenda.is_empty:
            return None
        begin_night(nights, agenda)
    else:
        screen.line(f"night      {agenda.night} was interrupted and goes on")
    known = {**nights.ledger.checkpoints, **{each.name: each for each in agenda.checkpoints}}
    known |= {each.name: each for each in checkpoints}
    _tell(agenda, screen)
    return Night(agenda, known, files, notes)


def _tell(agenda: Agenda, screen: Screen) -> None:
    num_bytes = sum(file.size for file in agenda.files)
    screen.line(
        f"night      {agenda.night}: {len(agenda.checkpoints)} new checkpoint(s), "
        f"{len(agenda.files)} new file(s) of {size(num_bytes)}; {len(agenda.pairs)} extraction(s)"
    )


def _do(
    config: Config,
    nights: Nights,
    night: Night,
    holding: Holding,
    screen: Screen,
    say: Callable[[str], None],
) -> bool:
    """Bring a night to its end, and start the program that waits for it; whether nothing failed."""

    def note(step: Step, error: BathyscopeError) -> None:
        holding.check()
        night.failed[step.subject] = f"{type(error).__name__}: {error}"
        screen.line(f"FAILED    {step.name}: {night.failed[step.subject]}")

    steps = _steps(config, nights, night, holding)
    carry_out(config, steps, record=night, screen=screen, failed=note)
    number, ledger = night.agenda.night, nights.ledger
    into_ledger(config, ledger, night)
    facts = write_findings(config, nights, night)
    holding.check()
    end_night(nights, facts)
    drop_older(nights.objects, number)
    drop_replaced(nights.objects, ledger, number)
    remove_forgotten(config, nights, number)
    beat(replace(nights, last=number), told=facts["told"])
    say(text_findings(facts))
    report = f"{nights.objects.location}/{facts['report_key']}"
    say(f"report: {report}")
    ran = start_command(config, report, screen)
    return ran and not night.failed


def _steps(config: Config, nights: Nights, night: Night, holding: Holding) -> Iterator[Step]:
    """The corpus of the new slice, and every stage of every extraction that is left."""
    yield from _slice(config, night)
    for pair in night.agenda.pairs:
        if pair.slice in night.failed:
            continue
        name = f"{pair.checkpoint}/{pair.slice}"
        own = _own(config, night, pair, nights.weights)
        if not is_observed(own):
            for stage in STAGES:
                holding.check()
                yield Step(f"{name}: {stage}", stage, own, subject=name)
                if name in night.failed:
                    break
        if name not in night.failed:
            let_go(own)
            night.done.append(pair)


def _slice(config: Config, night: Night) -> Iterator[Step]:
    """The new text, cut; files that cannot be read are named and left out."""
    agenda, name = night.agenda, night.agenda.slice_name
    if not agenda.files:
        return
    model = night.checkpoints[agenda.pairs[-1].checkpoint] if agenda.pairs else None
    if model is None:
        return
    night.read = list(agenda.files)
    own = replace(slice_run(config, name, night.read, model), force=True)
    yield Step(f"slice {name}: corpus", "corpus", own, subject=name)
    if name not in night.failed:
        return
    bad = dict(unreadable(own, night.read))
    night.read = [file for file in night.read if file not in bad]
    if not bad or not night.read:
        return
    del night.failed[name]
    night.failed |= {file.path: error for file, error in bad.items()}
    own = replace(slice_run(config, name, night.read, model), force=True)
    yield Step(f"slice {name}: corpus", "corpus", own, subject=name)


def _own(config: Config, night: Night, pair: Pair, weights: str) -> Config:
    own = extraction_run(config, pair, night.checkpoints[pair.checkpoint], weights)
    return replace(own, force=True)
