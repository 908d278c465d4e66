"""Sums over rows, per mask class, in a fixed order.

Float32 sums over blocks of 512 rows are added in float64: five times the speed of plain float64
sums, with a relative error near 512 · 2⁻²⁴.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import StoreError
from bathyscope.values import Json, Moments

BLOCK_ROWS = 512


def moments(rows: Tensor, members: Tensor | None = None) -> Moments:
    """n, Σx and Σx² of rows [n, d] of any float dtype, or of those whose numbers are given."""
    count = len(rows) if members is None else len(members)
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    total_sq = torch.zeros(rows.shape[1], dtype=torch.float64)
    # Memory that is used again stays in the cache: this is twice as fast as new blocks.
    space = torch.empty(min(BLOCK_ROWS, count), rows.shape[1])
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        x = space[: stop - start]
        x.copy_(rows[start:stop] if members is None else rows[members[start:stop]])
        total += x.sum(0).double()
        total_sq += x.square_().sum(0).double()
    return Moments(count, total.numpy(), total_sq.numpy())


def moments_by_class(rows: Tensor, mask: npt.NDArray[np.uint8]) -> dict[int, Moments]:
    """The moments of each mask class: rows that share the bit pattern of their mask [n]."""
    assert len(rows) == len(mask)
    found = {}
    for pattern in np.unique(mask):
        numbers = np.flatnonzero(mask == pattern)
        members = torch.from_numpy(numbers) if len(numbers) < len(mask) else None
        found[int(pattern)] = moments(rows, members)
    return found


def classes_by_chunk(mask: npt.NDArray[np.uint8], chunk_rows: int) -> Json:
    """How many rows of each mask class lie in each chunk of rows with these masks [n].

    With it a reader knows how many rows of a chunk pass a filter without reading any mask.
    """
    patterns = np.unique(mask)
    starts = np.arange(0, len(mask), chunk_rows)
    counts = [np.add.reduceat(mask == p, starts, dtype=np.int64).tolist() for p in patterns]
    return {"chunk_rows": chunk_rows, "patterns": patterns.tolist(), "counts": counts}


def kept_by_chunk(
    classes: Json, keep: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.bool_]]
) -> npt.NDArray[np.uint32]:
    """Rows of each chunk whose mask passes `keep`, from `classes_by_chunk`."""
    passes = keep(np.array(classes["patterns"], dtype=np.uint8))
    counts = np.array(classes["counts"], dtype=np.uint32)
    found: npt.NDArray[np.uint32] = counts[passes].sum(axis=0, dtype=np.uint32)
    return found


def total(parts: Iterable[Moments], *, what: str) -> Moments:
    """The sum of moments, in the order given. Raises `StoreError` when there are none."""
    listed = list(parts)
    if not listed:
        raise StoreError(f"There are no rows of {what} to take moments of. Check masks and split.")
    return reduce(add, listed)
