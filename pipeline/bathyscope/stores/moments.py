"""Sums over rows, per mask class, in a fixed order.

Float32 sums over blocks of 512 rows are added in float64: five times the speed of plain float64
sums, with a relative error near 512 · 2⁻²⁴.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import StoreError
from bathyscope.values import Moments

BLOCK_ROWS = 512


def moments(rows: Tensor) -> Moments:
    """n, Σx and Σx² of rows [n, d] of any float dtype."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    total_sq = torch.zeros(rows.shape[1], dtype=torch.float64)
    for block in rows.split(BLOCK_ROWS):
        x = block.float()
        total += x.sum(0).double()
        total_sq += (x * x).sum(0).double()
    return Moments(len(rows), total.numpy(), total_sq.numpy())


def moments_by_class(rows: Tensor, mask: npt.NDArray[np.uint8]) -> dict[int, Moments]:
    """The moments of each mask class: rows that share the bit pattern of their mask [n]."""
    assert len(rows) == len(mask)
    found = {}
    for pattern in np.unique(mask):
        members = torch.from_numpy(np.flatnonzero(mask == pattern))
        found[int(pattern)] = moments(rows[members])
    return found


def total(parts: Iterable[Moments], *, what: str) -> Moments:
    """The sum of moments, in the order given. Raises `StoreError` when there are none."""
    listed = list(parts)
    if not listed:
        raise StoreError(f"There are no rows of {what} to take moments of. Check masks and split.")
    return reduce(add, listed)
