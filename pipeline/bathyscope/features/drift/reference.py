"""The earlier nights that a night is compared with: their totals, and how much they differ.

Nights are added one at a time and not kept, so thirty nights need no more memory than two. Which
nights count as normal is the caller's choice.
"""

from __future__ import annotations

import numpy as np

from bathyscope.features.drift.between import (
    FEWEST_NIGHTS,
    NightSpread,
    NightSums,
    estimate_spread,
    series_spread,
)
from bathyscope.features.drift.scores import NUM_CLASSES, SERIES
from bathyscope.features.drift.totals import Totals

CLASS_SCORES = np.arange(1, NUM_CLASSES + 1)
"""Scores of the classes of density: octaves."""


class Reference:
    """Earlier nights of one dictionary: pooled totals and sums between nights.

    18 numbers of 8 bytes per latent beside the totals, 144 MB for a million.
    """

    def __init__(self) -> None:
        self.totals: Totals | None = None
        self.num_nights = 0

    def add(self, night: Totals) -> None:
        """Add a night, whose documents are whole. Raises as `Totals.merge` does."""
        if not night.documents:
            raise ValueError("the night has no documents: leave it out of the reference")
        if self.totals is None:
            self.totals = Totals(night.num_latents, night.scales)
            size = night.num_latents
            self._firing, self._density = NightSums(size), NightSums(size)
            self._activation, self._series = NightSums(size), NightSums(len(SERIES))
        self.totals.merge(night)
        self.num_nights += 1
        self._add_sums(night)

    def spreads(self) -> dict[str, NightSpread]:
        """Return what nights add for "documents", "density" and "activation"; fewer where unknown.

        Empty with under three nights.
        """
        if self.totals is None or self.num_nights < FEWEST_NIGHTS:
            return {}
        counts = self.totals.firing_documents() / self.num_nights
        found = {
            "documents": estimate_spread(self._firing, unit="odds", counts=counts),
            "density": estimate_spread(self._density, unit="score", counts=counts),
            "activation": estimate_spread(self._activation, unit="score", counts=counts),
        }
        return {name: spread for name, spread in found.items() if spread is not None}

    def spread_of_series(self) -> NightSpread | None:
        """Return what nights add for the series of `SERIES`; None with under three nights."""
        if self.num_nights < FEWEST_NIGHTS:
            return None
        return series_spread(self._series)

    def _add_sums(self, night: Totals) -> None:
        fired = night.firing_documents()
        self._firing.add(np.array(night.documents), fired, fired)
        self._density.add(fired, night.classes @ CLASS_SCORES, night.classes @ CLASS_SCORES**2)
        self._activation.add(fired, night.activation.sums, night.activation.squares)
        self._series.add(night.series_documents, night.series.sums, night.series.squares)
