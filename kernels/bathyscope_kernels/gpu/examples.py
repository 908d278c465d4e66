"""Top examples: for each latent the rows where it was most active, updated batch by batch.

Flow: the values and indices of an encode, with an id per row, go in; the m best rows per latent are
updated in place. A first kernel compares each triple (latent, value, row) with the worst example of
its latent. What passes, almost nothing after some batches, is sorted, and a second kernel merges
two sorted lists per latent that gets something new. Only those latents are written.

The state depends neither on the order of the batches nor on a batch that comes twice.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from bathyscope_kernels.gpu.keys import order_of
from bathyscope_kernels.gpu.lists import places_of
from bathyscope_kernels.gpu.runtime import (
    Configuration,
    check_device,
    on_device,
    register,
    tl,
    triton,
)
from bathyscope_kernels.score_blocks import orderable

MAX_EXAMPLES = 1024
"""The most examples per latent: a program holds twice as many."""

_BLOCK = 512
_STEP = 8
_MAX_VALUES = 2**31 - _BLOCK
_LATENT_BITS = 32
_LOW_31 = 2**31 - 1


@triton.jit(do_not_specialize=["num_entries", "k"])
def _mark_entering(  # type: ignore[no-untyped-def]
    values, indices, row_ids, best_values, best_rows, marks, num_entries, k, m, BLOCK: tl.constexpr
):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = place < num_entries
    value = tl.load(values + place, mask=real, other=0.0).to(tl.float32)
    order = order_of(value, False)
    # Above zero, or NaN.
    counts = real & (order > 0)
    latent = tl.load(indices + place, mask=counts, other=0).to(tl.int64)
    row = tl.load(row_ids + place // k, mask=counts, other=0)
    worst_row = tl.load(best_rows + latent * m + m - 1, mask=counts, other=-1)
    worst = order_of(tl.load(best_values + latent * m + m - 1, mask=counts, other=0.0), False)
    # An empty slot is below every value that counts; its own value is never looked at.
    worst = tl.where(worst_row < 0, 0, worst)
    enters = counts & ((order > worst) | ((order == worst) & (row < worst_row)))
    tl.store(marks + place, enters, mask=real)


@triton.jit
def _compare(  # type: ignore[no-untyped-def]
    order, row, values, rows, count, BLOCK: tl.constexpr, STEP: tl.constexpr
):
    """Return how many of the `count` examples of a list are ahead of each one, and how many are
    the same.
    """
    ahead = tl.zeros([BLOCK], tl.int32)
    same = tl.zeros([BLOCK], tl.int32)
    for first in range(0, count, STEP):
        other = first + tl.arange(0, STEP)
        real = (other < count)[None, :]
        other_order = order_of(tl.load(values + other, mask=other < count, other=0.0), False)
        other_order = other_order[None, :]
        other_row = tl.load(rows + other, mask=other < count, other=0)[None, :]
        equal = other_order == order[:, None]
        before = (other_order > order[:, None]) | (equal & (other_row < row[:, None]))
        ahead += tl.sum((before & real).to(tl.int32), 1)
        same += tl.sum((equal & (other_row == row[:, None]) & real).to(tl.int32), 1)
    return ahead, same


@triton.jit
def _merge_examples(  # type: ignore[no-untyped-def]
    best_values, best_rows, touched, offsets, new_values, new_rows, m,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    best_values += tl.load(touched + number) * m
    best_rows += tl.load(touched + number) * m
    start = tl.load(offsets + number)
    count = tl.load(offsets + number + 1) - start
    new_values += start
    new_rows += start
    slot = tl.arange(0, BLOCK)
    old_row = tl.load(best_rows + slot, mask=slot < m, other=-1)
    old_value = tl.load(best_values + slot, mask=slot < m, other=0.0)
    held = old_row >= 0
    num_held = tl.sum(held.to(tl.int32), 0)
    is_new = slot < count
    new_row = tl.load(new_rows + slot, mask=is_new, other=0)
    new_value = tl.load(new_values + slot, mask=is_new, other=0.0)

    old_order, new_order = order_of(old_value, False), order_of(new_value, False)
    old_behind, old_same = _compare(
        old_order, old_row, new_values, new_rows, count, BLOCK=BLOCK, STEP=STEP
    )
    new_behind, new_same = _compare(
        new_order, new_row, best_values, best_rows, num_held, BLOCK=BLOCK, STEP=STEP
    )
    old_same = tl.where(held, old_same, 0)
    new_same = tl.where(is_new, new_same, 0)
    # The rank in both lists together; an example in both of them counts once, as the old one.
    old_rank = slot + old_behind - (tl.cumsum(old_same, 0) - old_same)
    new_rank = slot + new_behind - (tl.cumsum(new_same, 0) - new_same)
    old_stays = held & (old_rank < m)
    new_stays = is_new & (new_same == 0) & (new_rank < m)
    total = num_held + count - tl.sum(new_same, 0)

    # All have read the old examples before any is overwritten.
    tl.debug_barrier()
    tl.store(best_values + old_rank, old_value, mask=old_stays)
    tl.store(best_rows + old_rank, old_row, mask=old_stays)
    tl.store(best_values + new_rank, new_value, mask=new_stays)
    tl.store(best_rows + new_rank, new_row, mask=new_stays)
    empty = (slot >= total) & (slot < m)
    tl.store(best_values + slot, tl.zeros([BLOCK], tl.float32), mask=empty)


class _New(NamedTuple):
    """The examples that enter, at most m per latent and none twice, best first."""

    touched: Tensor
    """[touched] int64, the latents that get some, ascending."""
    offsets: Tensor
    """[touched + 1] int64: where those of each begin."""
    values: Tensor
    """[new] float32"""
    rows: Tensor
    """[new] int64"""


@torch.no_grad()
def update_top_examples(
    best_values: Tensor, best_rows: Tensor, values: Tensor, indices: Tensor, row_ids: Tensor
) -> None:
    """Merge a batch into the m best rows of each latent, in place.

    best_values [latents, m] float32 and best_rows [latents, m] int64 hold the examples of each
    latent by value, descending, then by smaller row id; empty slots come last, with row -1. values
    [rows, k] floating point (compared as float32) and indices [rows, k] int32 or int64 are those of
    an encode, row_ids [rows] int64 are >= 0. All are on one CUDA device, the state contiguous.

    Only values above zero count, and NaN, which is larger than all. A triple (latent, value, row)
    that comes twice, in one batch or in two, is kept once. Waits for the device once, and once more
    if anything enters. The range of indices and row ids is the caller's matter. Raises ValueError
    for shapes, dtypes or devices that do not fit together, and for m above 1024.
    """
    _check(best_values, best_rows, values, indices, row_ids)
    if values.numel() == 0:
        return
    values, indices, m = values.contiguous(), indices.contiguous(), best_values.shape[1]
    k = values.shape[1]
    marks = torch.empty(values.numel(), dtype=torch.bool, device=values.device)
    with on_device(values):
        _mark_entering[(triton.cdiv(marks.numel(), _BLOCK),)](
            values, indices, row_ids.contiguous(), best_values, best_rows, marks,
            marks.numel(), k, m, BLOCK=_BLOCK, num_warps=_MARK_WARPS,
        )  # fmt: skip
    places = marks.nonzero().squeeze(1)
    if places.numel() == 0:
        return
    new = _ranked(
        indices.view(-1)[places].to(torch.int64),
        values.view(-1)[places].to(torch.float32),
        row_ids[places.div(k, rounding_mode="floor")],
        m,
    )
    with on_device(values):
        block = _merge_block(m)
        _merge_examples[(new.touched.numel(),)](
            best_values, best_rows, *new, m,
            BLOCK=block, STEP=_STEP, num_warps=_merge_warps(block),
        )  # fmt: skip


def _ranked(latents: Tensor, values: Tensor, rows: Tensor, m: int) -> _New:
    """Sort triples by latent, then value descending, then row; drop repeats and all past the m."""
    rows, order = torch.sort(rows, stable=True)
    # Values that count are not negative, so latent and value fit one key.
    keys = (latents << _LATENT_BITS) | (_LOW_31 - orderable(values).to(torch.int64))
    keys, by_key = torch.sort(keys[order], stable=True)
    rows, values = rows[by_key], values[order[by_key]]
    latents = keys >> _LATENT_BITS

    differs = (keys.diff() != 0) | (rows.diff() != 0)
    is_first = pad(differs, (1, 0), value=True)
    begins = pad(latents.diff() != 0, (1, 0), value=True)
    number = is_first.cumsum(0)
    rank = number - number[torch.searchsorted(latents, latents)]
    kept = is_first & (rank < m)
    num_kept, num_touched = torch.stack([kept.sum(), begins.sum()]).tolist()
    chosen = places_of(kept, num_kept, end=0)[:-1].long()
    touched = latents[places_of(begins, num_touched, end=0)[:-1].long()]
    offsets = pad(torch.searchsorted(latents[chosen], touched), (0, 1), value=num_kept)
    return _New(touched, offsets, values[chosen], rows[chosen])


def _check(
    best_values: Tensor, best_rows: Tensor, values: Tensor, indices: Tensor, row_ids: Tensor
) -> None:
    if best_values.ndim != 2 or best_values.shape != best_rows.shape or not best_values.shape[1]:
        raise ValueError(
            f"got best_values {list(best_values.shape)}, best_rows {list(best_rows.shape)}; wanted "
            "both [latents, m] with m >= 1; `no_examples` makes them"
        )
    if best_values.shape[1] > MAX_EXAMPLES:
        raise ValueError(
            f"got {best_values.shape[1]} examples per latent, wanted at most {MAX_EXAMPLES}; keep "
            "fewer, or use the function of the same name in bathyscope_kernels"
        )
    if best_values.dtype != torch.float32 or best_rows.dtype != torch.int64:
        raise ValueError(
            f"got best_values of {best_values.dtype}, best_rows of {best_rows.dtype}; wanted "
            "torch.float32 and torch.int64"
        )
    if not (best_values.is_contiguous() and best_rows.is_contiguous()):
        raise ValueError("got a state that is not contiguous, wanted one that is: it changes")
    if values.ndim != 2 or values.shape != indices.shape or row_ids.shape != values.shape[:1]:
        raise ValueError(
            f"got values {list(values.shape)}, indices {list(indices.shape)}, row_ids "
            f"{list(row_ids.shape)}; wanted values and indices [rows, k], row_ids [rows]"
        )
    if not values.is_floating_point() or indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"got values of {values.dtype}, indices of {indices.dtype}; wanted floating point "
            "values and torch.int32 or torch.int64 indices"
        )
    if values.numel() > _MAX_VALUES:
        raise ValueError(
            f"got {values.numel()} values, wanted at most {_MAX_VALUES}; cut the batch into parts"
        )
    if row_ids.dtype != torch.int64:
        raise ValueError(f"got row_ids of {row_ids.dtype}, wanted torch.int64")
    check_device(best_values, best_rows, values, indices, row_ids)


_MARK_WARPS = 4


def _merge_block(m: int) -> int:
    return int(max(16, triton.next_power_of_2(m)))


def _merge_warps(block: int) -> int:
    return min(16, max(1, block // 64))


def _marking(values: str, indices: str) -> Configuration:
    return Configuration(
        signature={
            "values": f"*{values}:16", "indices": f"*{indices}:16", "row_ids": "*i64:16",
            "best_values": "*fp32:16", "best_rows": "*i64:16", "marks": "*i1:16",
            "num_entries": "i32", "k": "i32", "m": "i32",
        },
        constexprs={"BLOCK": _BLOCK},
        num_warps=_MARK_WARPS,
    )  # fmt: skip


def _merging(m: int) -> Configuration:
    block = _merge_block(m)
    return Configuration(
        signature={
            "best_values": "*fp32:16", "best_rows": "*i64:16", "touched": "*i64:16",
            "offsets": "*i64:16", "new_values": "*fp32:16", "new_rows": "*i64:16", "m": "i32",
        },
        constexprs={"BLOCK": block, "STEP": _STEP},
        num_warps=_merge_warps(block),
    )  # fmt: skip


register("mark_entering", _mark_entering, [_marking("fp32", "i32"), _marking("bf16", "i64")])
register("merge_examples", _merge_examples, [_merging(50), _merging(MAX_EXAMPLES)])
