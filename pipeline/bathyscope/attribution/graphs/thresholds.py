"""Thresholds that keep a share of a sum, without a sort of everything.

Positive float64 numbers have the order of their bits. A histogram over leading bits finds the bin
in which the threshold lies; what lies in that bin is then sorted, or, where it is much (many equal
scores), divided further by the next bits, down to a single value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

import numpy as np

from bathyscope.attribution.graphs.graph import Floats, Ints

_SHIFTS = (46, 30, 14, 0)
_SORT_AT_MOST = 2**21


def share_threshold(
    blocks: Callable[[], Iterable[Floats]],
    share: float,
    *,
    rest: float = 0.0,
    sort_at_most: int = _SORT_AT_MOST,
) -> float:
    """The largest v with Σ_{x >= v} x >= share · Σ x, over numbers that come in blocks.

    All x >= v are the smallest set of largest numbers with that share, with everything that is
    equal to the last one. `blocks` is called once per pass, two to five times; zeros never count.
    Share 1 gives the least positive number, share 0 the largest; with no positive number at all
    the threshold is infinite. `rest` is added to Σ x, for what is never over it. Sums are taken in
    float64 in the order of the blocks.
    """
    prefix, above, width = 0, 0.0, 63
    target = None
    for shift in _SHIFTS:
        counts, sums = _histogram(blocks(), prefix, width, shift)
        if target is None:
            # Rounding must not end the search early when everything is wanted.
            target = share * (sums.sum() + rest) if share < 1 else inf
        bins = np.flatnonzero(counts)[::-1]
        if not len(bins):
            return inf
        chosen = _first_at_least(above + np.cumsum(sums[bins]), target)
        above += float(sums[bins[:chosen]].sum())
        prefix = (prefix << (width - shift)) + int(bins[chosen])
        width = shift
        if shift and counts[bins[chosen]] <= sort_at_most:
            return _within(blocks(), prefix, shift, target - above)
    return float(np.array(prefix, dtype=np.int64).view(np.float64))


def _first_at_least(cumulative: Floats, target: float) -> int:
    found = int(np.searchsorted(cumulative, target))
    return min(found, len(cumulative) - 1)


def _histogram(
    blocks: Iterable[Floats], prefix: int, width: int, shift: int
) -> tuple[Ints, Floats]:
    """Numbers and their sums per bin of bits, of those whose bits above `width` are `prefix`."""
    num_bins = 1 << (width - shift)
    counts, sums = np.zeros(num_bins, dtype=np.int64), np.zeros(num_bins)
    for block in blocks:
        chosen = _chosen(block, prefix, width)
        bins = (chosen.view(np.int64) >> shift) - (prefix << (width - shift))
        counts += np.bincount(bins, minlength=num_bins)
        sums += np.bincount(bins, weights=chosen, minlength=num_bins)
    return counts, sums


def _within(blocks: Iterable[Floats], prefix: int, width: int, target: float) -> float:
    found = np.concatenate([_chosen(block, prefix, width) for block in blocks])
    found = np.sort(found)[::-1]
    return float(found[_first_at_least(np.cumsum(found), target)])


def _chosen(block: Floats, prefix: int, width: int) -> Floats:
    positive = block[block > 0]
    if width == 63:
        return positive
    return positive[positive.view(np.int64) >> width == prefix]
