"""Where a threshold lies when the numbers that it comes from are known within bounds only.

The threshold that keeps a share of Σ x keeps x_s if and only if what is larger than x_s sums to
less than share · Σ x, that is (1 - share) · Σ_larger x - share · Σ_others x < 0. With x known
between bounds, the largest and the least value of the left side say which thresholds are too high
for some s and too low for others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bathyscope.attribution.graphs.graph import Floats, Ints

_OCTAVES = 64


class Interval(NamedTuple):
    """Numbers of at least `sure` are over the threshold, those under `least` are not."""

    least: float
    sure: float


class Bracket:
    """Sums of numbers within bounds, in bins over their leading bits.

    Bins are 2**-`bits` wide, relative to their numbers, over 64 octaves below `largest`; what is
    smaller shares the first bin.
    """

    def __init__(self, largest: float, *, bits: int) -> None:
        self._shift = 52 - bits
        self._num_bins = (_OCTAVES << bits) + 1
        self._first = (_bits(np.array([largest]))[0] >> self._shift) - self._num_bins + 1
        self._low = np.zeros(self._num_bins)
        self._counts_low = np.zeros(self._num_bins, dtype=np.int64)
        self._up = np.zeros(self._num_bins)
        self._counts_up = np.zeros(self._num_bins, dtype=np.int64)
        self._low_by_up = np.zeros(self._num_bins)

    def add(self, low: Floats, up: Floats) -> None:
        """Add numbers with bounds [m], 0 <= low <= up <= largest."""
        of_low, of_up = self._bins(low), self._bins(up)
        n = self._num_bins
        self._counts_low += np.bincount(of_low, minlength=n)
        self._counts_up += np.bincount(of_up, minlength=n)
        self._low += np.bincount(of_low, weights=low, minlength=n)
        self._up += np.bincount(of_up, weights=up, minlength=n)
        self._low_by_up += np.bincount(of_up, weights=low, minlength=n)

    def interval(self, share: float, rest: float = 0.0) -> Interval:
        """Bounds of the threshold for a share; `rest` is the most that further numbers sum to."""
        edges = self._edges()
        # The most for a number >= edge: all that can be as large is larger, and as large as it can.
        most = (1 - share) * (_from(self._up) + rest) - share * _under(self._low_by_up)
        sure = np.flatnonzero(most < 0)
        # The least for a number < edge: only what is at least as large as the edge is larger.
        between = _from(self._counts_up) - _from(self._counts_low)
        others = _under(self._up) + edges * between + rest
        least = np.flatnonzero((1 - share) * _from(self._low) - share * others >= 0)
        return Interval(
            float(edges[least[-1]]) if len(least) else 0.0,
            float(edges[sure[0]]) if len(sure) else np.inf,
        )

    def _bins(self, numbers: Floats) -> Ints:
        bins = (_bits(numbers) >> self._shift) - self._first
        # A number that rounding put over the largest one belongs to the last bin.
        found: Ints = np.clip(bins, 0, self._num_bins - 1)
        return found

    def _edges(self) -> Floats:
        bits = np.maximum(np.arange(self._num_bins) + self._first, 0) << self._shift
        edges = bits.view(np.float64)
        edges[0] = 0.0
        return edges


def _bits(numbers: Floats) -> Ints:
    return np.ascontiguousarray(numbers, dtype=np.float64).view(np.int64)


def _from(bins: Floats | Ints) -> Floats:
    """Sums over each bin and all higher ones."""
    return np.cumsum(bins[::-1])[::-1].astype(np.float64)


def _under(bins: Floats) -> Floats:
    """Sums over all lower bins."""
    return np.concatenate([[0.0], np.cumsum(bins)[:-1]])
