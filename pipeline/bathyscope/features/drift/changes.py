"""What is said of one latent, or one series, that changed: kind, size, interval, densities."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bathyscope.features.drift.effects import (
    LogRatios,
    activation_ratios,
    densities,
    typical_ratios,
)
from bathyscope.features.drift.scores import SERIES
from bathyscope.features.drift.totals import Totals

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Floors(NamedTuple):
    """Changes below these are not reported, however credible."""

    density_ratio: float = 1.25
    """Of typical densities, up or down."""
    density: float = 1e-6
    """Absolute difference of densities: one firing in a million tokens."""
    activation_ratio: float = 1.1
    """Of mean activations in a document, up or down."""
    series_ratio: float = 1.02
    """Of FVU, L0, norms and document lengths."""

    def check(self) -> None:
        """Raise `ValueError` for a ratio below 1 or a negative difference."""
        ratios = (self.density_ratio, self.activation_ratio, self.series_ratio)
        if not (min(ratios) >= 1 and self.density >= 0):
            raise ValueError(f"floors are {self}: wanted ratios of at least 1, and no negative one")


class LatentChange(NamedTuple):
    """One latent that changed."""

    latent: int
    kind: str
    """new, vanished, more, less, stronger or weaker."""
    ratio: float
    """Night over reference: typical density, or mean activation."""
    low: float
    """95 % interval of the ratio, document-wise."""
    high: float
    density: tuple[float, float]
    """Firings per token in reference and night."""
    density_error: tuple[float, float]
    """Their standard errors, documents as clusters."""
    documents: tuple[int, int]
    """Documents with a firing in reference and night."""
    p: float
    """Probability under no change, adjusted for all tests of the night."""
    credible: float
    """The end of the interval nearer to 1, as a factor of at least 1: the order of reports."""


class SeriesChange(NamedTuple):
    """One series of the night as a whole, changed or not."""

    name: str
    changed: bool
    ratio: float
    """Geometric mean over documents, night over reference; NaN where it was not measured."""
    low: float
    high: float
    p: float
    """Adjusted for the four series and their share of the error."""


def density_changes(
    night: Totals, old: Totals, latents: Ints, p: Floats, floors: Floors
) -> list[LatentChange]:
    """Return what is above the floors of latents with a credible change of how often they fire.

    A latent may be given twice; p are adjusted probabilities [given].
    """
    latents, p = _smallest(latents, p)
    ratios = typical_ratios(night, old, latents)
    difference = np.abs(densities(night, latents)[0] - densities(old, latents)[0])
    large = np.abs(ratios.estimates) >= math.log(floors.density_ratio)
    kept = large & (difference >= floors.density)
    kinds = np.where(ratios.estimates > 0, "more", "less")
    kinds = np.where(night.firings[latents] == 0, "vanished", kinds)
    kinds = np.where(old.firings[latents] == 0, "new", kinds)
    return _changes(night, old, latents, kinds, ratios, p, kept)


def activation_changes(
    night: Totals, old: Totals, latents: Ints, p: Floats, floors: Floors
) -> list[LatentChange]:
    """Return what is above the floors of latents with a credible change of their activation."""
    counts = night.firing_documents(), old.firing_documents()
    ratios = activation_ratios(night.activation, old.activation, counts, latents)
    kept = np.abs(ratios.estimates) >= math.log(floors.activation_ratio)
    kinds = np.where(ratios.estimates > 0, "stronger", "weaker")
    return _changes(night, old, latents, kinds, ratios, p, kept)


def _smallest(latents: Ints, p: Floats) -> tuple[Ints, Floats]:
    """Each latent once, with its smaller probability."""
    different, places = np.unique(latents, return_inverse=True)
    smallest = np.ones(len(different))
    np.minimum.at(smallest, places, p)
    return different, smallest


def _changes(
    night: Totals,
    old: Totals,
    latents: Ints,
    kinds: NDArray[np.str_],
    ratios: LogRatios,
    p: Floats,
    kept: NDArray[np.bool_],
) -> list[LatentChange]:
    (before, before_error), (now, now_error) = densities(old, latents), densities(night, latents)
    counts = [totals.classes[latents].sum(1) for totals in (old, night)]
    ratio, low, high, credible = (
        np.exp(column)
        for column in (ratios.estimates, ratios.low(), ratios.high(), ratios.credible())
    )
    return [
        LatentChange(
            latent=int(latents[i]),
            kind=str(kinds[i]),
            ratio=float(ratio[i]),
            low=float(low[i]),
            high=float(high[i]),
            density=(float(before[i]), float(now[i])),
            density_error=(float(before_error[i]), float(now_error[i])),
            documents=(int(counts[0][i]), int(counts[1][i])),
            p=float(p[i]),
            credible=float(credible[i]),
        )
        for i in np.flatnonzero(kept)
    ]


def series_changes(
    night: Totals, old: Totals, p: Floats, error: float, floors: Floors
) -> list[SeriesChange]:
    """Return all series, with their adjusted probabilities p [series]."""
    counts = night.series_documents, old.series_documents
    places = np.flatnonzero((counts[0] > 0) & (counts[1] > 0))
    ratios = activation_ratios(night.series, old.series, counts, places)
    found = [SeriesChange(name, False, math.nan, math.nan, math.nan, 1.0) for name in SERIES]
    for i, place in enumerate(places.tolist()):
        large = abs(ratios.estimates[i]) >= math.log(floors.series_ratio)
        found[place] = SeriesChange(
            name=SERIES[place],
            changed=bool(large and p[place] <= error),
            ratio=math.exp(ratios.estimates[i]),
            low=math.exp(ratios.low()[i]),
            high=math.exp(ratios.high()[i]),
            p=float(p[place]),
        )
    return found
