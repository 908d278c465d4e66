"""The k largest entries of each row, by a search for the bits of the k-th order.

Flow: `select_dense` takes the k best of a whole chunk of scores into the candidates, `merge` joins
the candidates with the best so far and says what a score must exceed from now on. What comes out
is in no order: `best_rows` puts it in one.

One program holds a row in registers and builds the k-th largest order bit by bit: a bit is set if
at least k entries reach the trial. It stops once exactly k do, after some twenty counts for scores
that differ. Where the k-th is tied, the same search over columns finds the smallest ones. That is
exact, needs no sort, and its code is small at any length.
"""

from typing import NamedTuple

from torch import Tensor

from bathyscope_kernels.gpu.keys import (
    HIGHEST,
    LOWEST,
    column_in,
    order_of,
    pack,
    score_in,
    score_of,
)
from bathyscope_kernels.gpu.runtime import Configuration, on_device, register, tl, triton

MAX_DENSE = 8192
"""Columns that `select_dense` can hold in registers."""
MAX_K = 8192
"""The largest k whose best and candidates `merge` can hold in registers."""

_MAX_LIST = 16384


class Best(NamedTuple):
    """The best entries of each row so far, in no order."""

    entries: Tensor
    """[rows, k] int64; unset past the length."""
    lengths: Tensor
    """[rows] int32"""


class Candidates(NamedTuple):
    """Entries that may be among the best, in no order."""

    entries: Tensor
    """[rows, capacity] int64; unset past the length."""
    lengths: Tensor
    """[rows] int32; above the capacity if some did not fit."""


@triton.jit
def keep_largest(order, column, k):  # type: ignore[no-untyped-def]
    """Mark the k entries of largest order, then smallest column; LOWEST is no entry.

    Columns differ from each other and are >= 0. All entries are marked if there are no more
    than k.
    """
    one = tl.full([], 1, tl.int32)
    floor = tl.full([], LOWEST, tl.int32)
    found = tl.sum((order > LOWEST).to(tl.int32), 0)
    bit = tl.full([], 31, tl.int32)
    while (found > k) & (bit >= 0):
        # The first step is from the lowest order to 0, the others set a bit that is not set.
        trial = floor ^ (one << bit)
        reaching = tl.sum((order >= trial).to(tl.int32), 0)
        enough = reaching >= k
        floor = tl.where(enough, trial, floor)
        found = tl.where(enough, reaching, found)
        bit -= 1
    keep = (order >= floor) & (order > LOWEST)
    if found > k:
        tied = order == floor
        missing = k - tl.sum((order > floor).to(tl.int32), 0)
        limit = tl.full([], 0, tl.int32)
        taken = tl.full([], 0, tl.int32)
        bit = tl.full([], 30, tl.int32)
        while (taken < missing) & (bit >= 0):
            trial = limit + (one << bit)
            before = tl.sum((tied & (column < trial)).to(tl.int32), 0)
            fits = before <= missing
            limit = tl.where(fits, trial, limit)
            taken = tl.where(fits, before, taken)
            bit -= 1
        keep = (order > floor) | (tied & (column < limit))
    return keep


@triton.jit(do_not_specialize=["first_column", "k", "floor"])
def _select_dense(  # type: ignore[no-untyped-def]
    scores, bias, entries, count, width, first_column, k, capacity, floor,
    HAS_BIAS: tl.constexpr, MAGNITUDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    score = tl.load(scores + row * width + column, mask=inside, other=0.0)
    if HAS_BIAS:
        score += tl.load(bias + column, mask=inside, other=0.0)
    order = order_of(score, MAGNITUDE)
    order = tl.where(inside & (order > floor), order, LOWEST)
    keep = keep_largest(order, column, k)
    slot = tl.cumsum(keep.to(tl.int32), 0) - 1
    tl.store(entries + row * capacity + slot, pack(score, first_column + column), mask=keep)
    tl.store(count + row, tl.sum(keep.to(tl.int32), 0))


@triton.jit(do_not_specialize=["k"])
def _merge(  # type: ignore[no-untyped-def]
    best, best_count, entries, count, new_best, new_count, tau, overflowed, k, capacity,
    MAGNITUDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, BLOCK)
    added = tl.load(count + row)
    old = slot < tl.load(best_count + row)
    new = (slot >= k) & (slot - k < tl.minimum(added, capacity))
    entry = tl.load(best + row * k + slot, mask=old, other=0)
    added_entry = tl.load(entries + row * capacity + (slot - k), mask=new, other=0)
    entry = tl.where(new, added_entry, entry)
    order = tl.where(old | new, order_of(score_in(entry), MAGNITUDE), LOWEST)
    keep = keep_largest(order, column_in(entry), k)
    kept = tl.sum(keep.to(tl.int32), 0)
    to = tl.cumsum(keep.to(tl.int32), 0) - 1
    # Into other memory than was read: threads do not wait for each other between the two.
    tl.store(new_best + row * k + to, entry, mask=keep)
    tl.store(new_count + row, kept)
    smallest = tl.min(tl.where(keep, order, HIGHEST), 0)
    tl.store(tau + row, tl.where(kept == k, score_of(smallest, MAGNITUDE), 0.0))
    tl.store(overflowed + row, 1, mask=added > capacity)
    tl.store(count + row, 0)


def list_length(k: int) -> int:
    """Return the length of a row's list: its k best and the candidates, a power of two.

    A stage that doubles the columns seen adds k candidates on average (columns in random order,
    variance 2 k); room for 3 k + 64 is ten standard deviations and more.
    """
    return min(_MAX_LIST, triton.next_power_of_2(4 * k + 64))


def select_dense(
    scores: Tensor,
    bias: Tensor | None,
    candidates: Candidates,
    *,
    first_column: int,
    k: int,
    floor: int,
    magnitude: bool,
) -> None:
    """Replace the candidates by the k best of each row of `scores`, with order above `floor`."""
    rows, width = scores.shape
    block = max(16, triton.next_power_of_2(width))
    with on_device(scores):
        _select_dense[(rows,)](
            scores, bias if bias is not None else scores, *candidates, width, first_column, k,
            candidates.entries.shape[1], floor,
            HAS_BIAS=bias is not None, MAGNITUDE=magnitude, BLOCK=block,
            num_warps=_warps(block),
        )  # fmt: skip


def merge(
    best: Best,
    candidates: Candidates,
    into: Best,
    tau: Tensor,
    overflowed: Tensor,
    *,
    k: int,
    magnitude: bool,
) -> None:
    """Write the k best of `best` and the candidates to `into`, and empty the candidates.

    `tau` [rows] float32 becomes the k-th score (NaN where that is NaN), or 0 with fewer than k;
    `overflowed` [rows] int32 becomes 1 where candidates were lost.
    """
    rows, capacity = candidates.entries.shape
    block = triton.next_power_of_2(k + capacity)
    with on_device(tau):
        _merge[(rows,)](
            *best, *candidates, *into, tau, overflowed, k, capacity,
            MAGNITUDE=magnitude, BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip


def _warps(block: int) -> int:
    """Few warps for short rows: a sum within one warp needs no barrier."""
    return min(16, max(1, block // 256))


def _register_dense() -> None:
    signature = {
        "scores": "*fp32:16", "bias": "*fp32:16", "entries": "*i64:16", "count": "*i32:16",
        "width": "i32:16", "first_column": "i32", "k": "i32", "capacity": "i32:16", "floor": "i32",
    }  # fmt: skip
    register(
        "select_dense",
        _select_dense,
        [
            Configuration(
                signature,
                {"HAS_BIAS": not magnitude, "MAGNITUDE": magnitude, "BLOCK": block},
                num_warps=_warps(block),
            )
            for block, magnitude in ((1024, False), (2048, False), (4096, True), (8192, False))
        ],
    )


def _register_merge() -> None:
    pointers = dict.fromkeys(("best", "entries", "new_best"), "*i64:16")
    counts = dict.fromkeys(("best_count", "count", "new_count", "overflowed"), "*i32:16")
    signature = pointers | counts | {"tau": "*fp32:16", "k": "i32", "capacity": "i32:16"}
    register(
        "merge",
        _merge,
        [
            Configuration(
                signature,
                {"MAGNITUDE": magnitude, "BLOCK": block},
                num_warps=_warps(block),
                # The longest list, for k above 2000 only, does not fit the registers quite.
                spill_bytes=256 if block == _MAX_LIST else 0,
            )
            for block, magnitude in (
                (256, False), (512, True), (1024, False), (4096, False), (16384, False),
            )
        ],
    )  # fmt: skip


_register_dense()
_register_merge()
