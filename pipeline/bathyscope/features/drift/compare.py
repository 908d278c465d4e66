"""A night against earlier ones: which changes are credible and large, the largest first.

A change is reported when its probability holds against all tests of the night (Holm 1979; family-
wise error `error`, of which nine tenths go to latents and one tenth to the four series) and its
size is above a floor: with many documents the smallest difference is credible, and of no interest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bathyscope.features.drift.between import FEWEST_FOR_SERIES, FEWEST_NIGHTS
from bathyscope.features.drift.changes import (
    Floors,
    LatentChange,
    SeriesChange,
    activation_changes,
    density_changes,
    series_changes,
)
from bathyscope.features.drift.effects import unexplained
from bathyscope.features.drift.evidence import TESTS, Evidence, latent_evidence, series_evidence
from bathyscope.features.drift.reference import Reference
from bathyscope.features.drift.scores import SERIES
from bathyscope.features.drift.totals import Totals

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LATENT_SHARE = 0.9
"""Share of the family-wise error that latents have; the series have the rest."""


class Drift(NamedTuple):
    """What a night has of credible changes."""

    latents: list[LatentChange]
    """The most credible size first; a latent appears once, with its largest change."""
    series: list[SeriesChange]
    """All of `SERIES`."""
    fvu: tuple[float, float]
    """Pooled, reference and night."""
    fvu_error: tuple[float, float]
    """Standard errors over documents."""
    num_tests: int
    error: float
    notes: list[str]

    @property
    def raised(self) -> bool:
        """Whether anything is reported as changed."""
        return bool(self.latents) or any(series.changed for series in self.series)


def compare(
    night: Totals, reference: Reference, *, error: float = 1e-4, floors: Floors | None = None
) -> Drift:
    """Return the credible changes of a night against its reference.

    Raises `ValueError` for a night or a reference without documents, another dictionary, an error
    that is not between 0 and 1.
    """
    floors = floors or Floors()
    floors.check()
    old = _check(night, reference, error)
    evidence = latent_evidence(night, reference, level=error)
    latents = _latent_changes(night, old, evidence, error, floors)
    p = holm(series_evidence(night, reference, level=error).log_p, len(SERIES), 1 - LATENT_SHARE)
    series = series_changes(night, old, p, error, floors)
    both = [unexplained(old), unexplained(night)]
    return Drift(
        latents=latents,
        series=series,
        fvu=(both[0][0], both[1][0]),
        fvu_error=(both[0][1], both[1][1]),
        num_tests=len(TESTS) * night.num_latents + len(SERIES),
        error=error,
        notes=_notes(reference, series),
    )


def holm(log_p: Floats, num_tests: int, share: float) -> Floats:
    """Return adjusted probabilities (Holm 1979) of the tests that are given, of `num_tests`.

    The rest are taken as no smaller than those given. `share` is the part of the family-wise error
    that these tests have. In the order of `log_p`.
    """
    order = np.argsort(log_p, kind="stable")
    factors = np.log(num_tests - np.arange(len(log_p))) - math.log(share)
    adjusted = np.empty(len(log_p))
    adjusted[order] = np.maximum.accumulate(log_p[order] + factors)
    return np.exp(np.minimum(adjusted, 0.0))


def _latent_changes(
    night: Totals, old: Totals, evidence: dict[str, Evidence], error: float, floors: Floors
) -> list[LatentChange]:
    """Those below the error and above the floors, most credible size first."""
    stacked = np.stack([evidence[name].log_p for name in TESTS])
    # Holm needs the smallest ones only; nothing above the first threshold can be rejected later
    # than a test that is not.
    test, latent = np.nonzero(stacked < math.log(error))
    p = holm(stacked[test, latent], stacked.size, LATENT_SHARE)
    rejected = p <= error
    test, latent, p = test[rejected], latent[rejected], p[rejected]
    firing = test != TESTS.index("activation")
    changes: dict[int, LatentChange] = {}
    for found in (
        density_changes(night, old, latent[firing], p[firing], floors),
        activation_changes(night, old, latent[~firing], p[~firing], floors),
    ):
        for change in found:
            known = changes.get(change.latent)
            if known is None or change.credible > known.credible:
                changes[change.latent] = change
    return sorted(changes.values(), key=lambda change: (-change.credible, change.p, change.latent))


def _notes(reference: Reference, series: list[SeriesChange]) -> list[str]:
    notes = []
    if reference.num_nights < FEWEST_NIGHTS:
        notes.append(
            f"{reference.num_nights} earlier night(s): how much nights differ of themselves is not "
            "known, so documents alone decide; with three or more it is estimated"
        )
    elif reference.num_nights < FEWEST_FOR_SERIES:
        notes.append(
            f"{reference.num_nights} earlier nights do not tell how much FVU, L0, norms and "
            "lengths differ of themselves, so only the largest changes of these are found: wanted "
            f"{FEWEST_FOR_SERIES} or more"
        )
    lengths = next(found for found in series if found.name == "tokens")
    if lengths.changed:
        notes.append(
            f"documents have {lengths.ratio:.2f} times the tokens of earlier ones: latents may "
            "change with their length"
        )
    return notes


def _check(night: Totals, reference: Reference, error: float) -> Totals:
    if not 0 < error < 1:
        raise ValueError(f"error is {error}: wanted a family-wise error between 0 and 1")
    if reference.totals is None or not night.documents:
        raise ValueError(
            "a night and its reference need documents: add earlier nights to the reference, and "
            "compare a night that has some"
        )
    reference.totals.check_same(night)
    return reference.totals
