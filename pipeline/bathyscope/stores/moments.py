"""Sums over rows, per mask class, in a fixed order.

Float32 sums over blocks of 512 rows are added in float64: five times the speed of plain float64
sums, with a relative error near 512 · 2⁻²⁴.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import StoreError
from bathyscope.values import Json, Moments

BLOCK_ROWS = 512


def moments(rows: Tensor) -> Moments:
    """n, Σx and Σx² of rows [n, d] of any float dtype."""
    return moments_by_class(rows, np.zeros(len(rows), dtype=np.uint8)).get(0, _none(rows))


def moments_by_class(rows: Tensor, mask: npt.NDArray[np.uint8]) -> dict[int, Moments]:
    """The moments of each mask class: rows that share the bit pattern of their mask [n].

    Rows of a class are summed within blocks of 512 rows of any class.
    """
    assert len(rows) == len(mask)
    found = {int(pattern): _none(rows) for pattern in np.unique(mask)}
    # Memory that is used again stays in the cache: this is twice as fast as new blocks.
    space = torch.empty(min(BLOCK_ROWS, len(rows)), rows.shape[1])
    for start in range(0, len(rows), BLOCK_ROWS):
        of_block = mask[start : start + BLOCK_ROWS]
        block = space[: len(of_block)]
        block.copy_(rows[start : start + BLOCK_ROWS])
        for pattern, sums in _of_block(block, of_block):
            found[pattern] += sums
    return found


def _of_block(block: Tensor, mask: npt.NDArray[np.uint8]) -> Iterator[tuple[int, Moments]]:
    """The moments of each class in a float32 block [n, d], whose content is lost."""
    patterns, counts = np.unique(mask, return_counts=True)
    *smaller, largest = np.argsort(counts, kind="stable")
    for place in smaller:
        members = torch.from_numpy(np.flatnonzero(mask == patterns[place]))
        yield int(patterns[place]), _sums(block[members], len(members))
        # What is left in the end are the rows of the largest class, which need no copy.
        block[members] = 0.0
    yield int(patterns[largest]), _sums(block, int(counts[largest]))


def _sums(x: Tensor, count: int) -> Moments:
    total = x.sum(0).double().numpy()
    return Moments(count, total, x.square_().sum(0).double().numpy())


def _none(rows: Tensor) -> Moments:
    zeros = np.zeros(rows.shape[1])
    return Moments(0, zeros, zeros)


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
