"""What nights let go: rows once they are counted, and whole nights once they are old.

What the ledger does not name is not there: it is written first, and what it dropped is removed
afterwards, again by every later night, so that a stop in between leaves nothing behind.
"""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.runs.run import ACTIVATIONS, LATENTS
from bathyscope.stages.nights.archive import archive_older
from bathyscope.stages.nights.extraction import EXTRACTIONS, SLICES
from bathyscope.stages.nights.history import Nights
from bathyscope.stages.nights.ledger import Ledger
from bathyscope.stores.objects import Objects

REPORTS = "reports"


def let_go(config: Config) -> None:
    """Remove what is not to be kept of an extraction that is complete."""
    objects, kept = Objects(config.url), config.nightly
    folders = [] if kept.keep_activations else [ACTIVATIONS]
    if kept.keep_latents != "all":
        folders.append(LATENTS)
    for folder in folders:
        objects.delete_folder(folder)
        objects.sweep(folder)


def forget_older(ledger: Ledger, night: int, keep: int) -> None:
    """Drop slices of nights before the last `keep`, and what was read of them; none for 0.

    Files stay known, so that they are not read again, and merged statistics stay as they are.
    """
    if not keep:
        return
    old = {name for name, facts in ledger.slices.items() if facts["night"] <= night - keep}
    ledger.slices = {name: facts for name, facts in ledger.slices.items() if name not in old}
    ledger.done = [pair for pair in ledger.done if pair.slice not in old]
    ledger.pending = [pair for pair in ledger.pending if pair.slice not in old]


def remove_forgotten(config: Config, nights: Nights, night: int) -> None:
    """Remove slices and extractions that the ledger does not name, reports and manifests as old."""
    keep = config.nightly.keep_nights
    if not keep:
        return
    run, known = Objects(config.url), set(nights.ledger.slices)
    folders = [f"{SLICES}/{name}" for name in run.children(SLICES)]
    for checkpoint in run.children(EXTRACTIONS):
        there = run.children(f"{EXTRACTIONS}/{checkpoint}")
        folders += [f"{EXTRACTIONS}/{checkpoint}/{name}" for name in there]
    for folder in folders:
        name = folder.rsplit("/", 1)[-1]
        if name not in known and int(name) <= night:
            run.delete_folder(folder)
            run.sweep(folder)
    for number in nights.objects.children(REPORTS):
        if int(number) <= night - keep:
            nights.objects.delete_folder(f"{REPORTS}/{number}")
            nights.objects.sweep(f"{REPORTS}/{number}")
    archive_older(nights.objects, night - keep)
