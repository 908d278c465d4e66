"""The largest entries of sparse rows that cover a share of each row's mass.

A histogram of each row over the leading bits of |A| finds the bin in which its threshold lies; only
what lies in these bins, some hundredth of the entries, is sorted. On any device; a GPU adds in no
fixed order, so an entry whose place is decided by the last bit of a sum may fall either way there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_SHIFT = 20
_BINS = 1 << (31 - _SHIFT)


class SparseRows(NamedTuple):
    """Entries of some rows, one row after the other."""

    rows: Tensor
    """Row of each entry, 0 to b - 1, ascending, int64 [m]."""
    columns: Tensor
    """int64 [m], ascending within a row."""
    values: Tensor
    """float32 [m], none of them 0."""
    num_rows: int

    def chosen(self, keep: Tensor) -> SparseRows:
        """The entries where `keep` [m] holds."""
        return SparseRows(self.rows[keep], self.columns[keep], self.values[keep], self.num_rows)

    def sums(self) -> Tensor:
        """Σ |A| of each row, float64 [b]."""
        zeros = self.values.new_zeros(self.num_rows, dtype=torch.float64)
        return zeros.index_add_(0, self.rows, self.values.abs().double())


def covering(entries: SparseRows, share: float) -> Tensor:
    """Which entries [m] are the largest of their rows that together have `share` of Σ |A|.

    The smallest such set, with every entry that is as large as the least of it.
    """
    size = entries.values.abs()
    threshold = _thresholds(entries, size, share * entries.sums())
    return size >= threshold[entries.rows]


def _thresholds(entries: SparseRows, size: Tensor, target: Tensor) -> Tensor:
    """The least |A| of each row that must be kept for the target sum, float32 [b]."""
    bins = size.view(torch.int32).long() >> _SHIFT
    cells = torch.zeros(entries.num_rows * _BINS, dtype=torch.float64, device=size.device)
    cells.index_add_(0, entries.rows * _BINS + bins, size.double())
    mass = cells.view(entries.num_rows, _BINS)
    # Mass in a bin and all higher ones; it falls with the bin.
    upward = mass.flip(1).cumsum(1).flip(1)
    reached = upward >= target[:, None]
    # The last bin that reaches the target; where rounding lets none do so, all are wanted.
    bin_ = (reached.sum(1) - 1).clamp_min(0)
    above = upward.gather(1, (bin_ + 1).clamp_max(_BINS - 1)[:, None])[:, 0]
    above = torch.where(bin_ == _BINS - 1, 0.0, above)
    inside = entries.chosen(bins == bin_[entries.rows])
    return _sorted_thresholds(inside, target - above)


def _sorted_thresholds(inside: SparseRows, target: Tensor) -> Tensor:
    """The same within one bin per row, by sorting."""
    size = inside.values.abs()
    falling = (1 << 31) - size.view(torch.int32).long()
    order = torch.argsort((inside.rows << 32) | falling)
    rows, size = inside.rows[order], size[order]
    sums = size.double().cumsum(0)
    counts = torch.bincount(rows, minlength=inside.num_rows)
    ends = counts.cumsum(0)
    before = torch.cat([sums.new_zeros(1), sums])[ends - counts]
    place = torch.arange(len(rows), device=rows.device)
    reached = sums - before[rows] >= target[rows]
    # The first entry that reaches the target, or the row's last one.
    first = torch.where(reached, place, len(rows))
    found = (ends - 1).scatter_reduce(0, rows, first, "amin")
    # A row without entries has no threshold that matters.
    return size[found.clamp_min(0)] if len(size) else target.new_zeros(len(target)).float()
