"""What has changed: every extraction of a night against earlier ones, in documents.

New text is compared with earlier slices that the same checkpoint read; a checkpoint with the one
before it, on the same slice. The family-wise error of the night is shared by its comparisons.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bathyscope.config import Config
from bathyscope.features.drift.compare import Drift, Floors, compare
from bathyscope.features.drift.power import Design, detectable_ratio
from bathyscope.features.drift.reference import Reference
from bathyscope.features.drift.totals import Totals
from bathyscope.runs.run import OBSERVATIONS, Run
from bathyscope.stages.nights.extraction import EXTRACTIONS
from bathyscope.stages.nights.ledger import Ledger, Pair

TEXT, CHECKPOINT = "text", "checkpoint"
DENSITIES = (1e-5, 1e-4, 1e-3, 1e-2)
"""For which a report says what would be found."""


@dataclass(frozen=True)
class Planned:
    """A comparison that can be made."""

    pair: Pair
    kind: str
    """`text`: other text, the same checkpoint; `checkpoint`: the same text, another checkpoint."""
    against: list[Pair]
    """The newest last."""


@dataclass(frozen=True)
class Comparison:
    """A comparison that was made."""

    planned: Planned
    drift: Drift
    found: list[tuple[float, float]]
    """Density of a latent, and the smallest increase of it that is found 9 times in 10."""


def planned_comparisons(ledger: Ledger, done: Sequence[Pair], *, baseline: int) -> list[Planned]:
    """What the extractions that a night has done can be compared with; `ledger` has them too."""
    found = []
    names = list(ledger.checkpoints)
    for pair in done:
        earlier = [n for n in ledger.slices_of(pair.checkpoint) if n < pair.slice]
        if earlier:
            against = [Pair(pair.checkpoint, name) for name in earlier[-baseline:]]
            found.append(Planned(pair, TEXT, against))
        place = names.index(pair.checkpoint)
        before = [n for n in ledger.readers_of(pair.slice) if names.index(n) < place]
        if before:
            found.append(Planned(pair, CHECKPOINT, [Pair(before[-1], pair.slice)]))
    return found


def compared(config: Config, planned: Sequence[Planned]) -> list[Comparison]:
    """Make the comparisons."""
    nightly = config.nightly
    floors = Floors(density_ratio=nightly.least_ratio, activation_ratio=nightly.least_ratio)
    made = []
    for each in planned:
        reference = Reference()
        for pair in each.against:
            reference.add(totals_of(config, pair))
        totals, error = totals_of(config, each.pair), nightly.error / len(planned)
        drift = compare(totals, reference, error=error, floors=floors)
        assert reference.totals is not None, "a comparison is with something"
        found = _detectable(totals, reference.totals.documents, error, floors)
        made.append(Comparison(each, drift, found))
    return made


def _detectable(
    totals: Totals, reference_documents: int, error: float, floors: Floors
) -> list[tuple[float, float]]:
    """What would be found with a power of 0.9, by density; NaN where no increase would be."""
    fired = max(int(totals.firing_documents().sum()), 1)
    design = Design(
        documents=totals.documents,
        reference_documents=reference_documents,
        num_latents=totals.num_latents,
        tokens=totals.tokens / totals.documents,
        firings=max(int(totals.firings.sum()) / fired, 1.0),
        error=error,
    )
    # A latent cannot be in more than all documents.
    densities = [d for d in DENSITIES if d * design.tokens < design.firings]
    return [(density, detectable_ratio(design, density, floors=floors)) for density in densities]


def run_of(config: Config, pair: Pair) -> Run:
    """The run of an extraction."""
    return Run(f"{config.url.rstrip('/')}/{EXTRACTIONS}/{pair.checkpoint}/{pair.slice}")


def totals_of(config: Config, pair: Pair) -> Totals:
    """Sums over the documents of an extraction."""
    artifact, run = f"{OBSERVATIONS}/{config.dictionary.name}", run_of(config, pair)
    data = run.objects.at(artifact).get(run.manifest(artifact).facts["totals_key"])
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return Totals.from_arrays({name: arrays[name] for name in arrays.files})
