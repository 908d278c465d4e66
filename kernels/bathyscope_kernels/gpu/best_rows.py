"""The best entries of each row as values and indices, in descending order.

Flow: the `Best` of the selection goes in, three tensors of the result are filled. A program
compares each entry of its row with each other: an entry's place is the number of those ahead of
it. For a k so large that this is slow, two stable sorts do the same.
"""

import torch
from torch import Tensor

from bathyscope_kernels.gpu.keys import column_in, order_of, score_in, unpack_entries
from bathyscope_kernels.gpu.runtime import Configuration, on_device, register, tl, triton
from bathyscope_kernels.gpu.select import Best

_MAX_RANKED = 512
"""Above this k a sort is quicker than comparing each entry with each other (an estimate)."""
_STEP = 16


@triton.jit(do_not_specialize=["k"])
def _write_rows(  # type: ignore[no-untyped-def]
    best, best_count, values, indices, count, k,
    MAGNITUDE: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, BLOCK)
    num_best = tl.load(best_count + row)
    used = slot < num_best
    entry = tl.load(best + row * k + slot, mask=used, other=0)
    order = order_of(score_in(entry), MAGNITUDE)
    column = column_in(entry)
    rank = tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_best, STEP):
        other_slot = start + tl.arange(0, STEP)
        real = other_slot < num_best
        other = tl.load(best + row * k + other_slot, mask=real, other=0)
        other_order = order_of(score_in(other), MAGNITUDE)[None, :]
        ahead = (other_order > order[:, None]) | (
            (other_order == order[:, None]) & (column_in(other)[None, :] < column[:, None])
        )
        rank += tl.sum((ahead & real[None, :]).to(tl.int32), 1)
    # Slots past the count keep their place and hold zeros.
    rank = tl.where(used, rank, slot)
    written = slot < k
    # Adding 0.0: a score of -0.0 is returned as 0.0.
    tl.store(values + row * k + rank, tl.where(used, score_in(entry) + 0.0, 0.0), mask=written)
    tl.store(indices + row * k + rank, tl.where(used, column, 0), mask=written)
    tl.store(count + row, num_best)


def write_rows(
    best: Best, values: Tensor, indices: Tensor, count: Tensor, *, magnitude: bool
) -> None:
    """Write the best in descending order, then by column; zeros past the count."""
    rows, k = best.entries.shape
    if k > _MAX_RANKED:
        _write_sorted(best, values, indices, count, magnitude=magnitude)
        return
    block = max(16, triton.next_power_of_2(k))
    with on_device(values):
        _write_rows[(rows,)](
            *best, values, indices, count, k,
            MAGNITUDE=magnitude, BLOCK=block, STEP=_STEP, num_warps=_ranking_warps(block),
        )  # fmt: skip


def _write_sorted(
    best: Best, values: Tensor, indices: Tensor, count: Tensor, *, magnitude: bool
) -> None:
    k = best.entries.shape[1]
    unused = torch.arange(k, device=values.device) >= best.lengths[:, None]
    scores, columns = unpack_entries(best.entries.masked_fill(unused, 0))
    by_column = torch.sort(columns, dim=1, stable=True).indices
    scores = scores.gather(1, by_column)
    strength = scores.abs() if magnitude else scores
    # Slots that are not used go last, behind -inf, which a sort of scores cannot say.
    order = _orders(strength).masked_fill_(unused.gather(1, by_column), -(2**31))
    by_order = torch.sort(order, dim=1, descending=True, stable=True).indices
    values.copy_(scores.gather(1, by_order).masked_fill_(unused, 0) + 0.0)
    indices.copy_(columns.gather(1, by_column).gather(1, by_order).masked_fill_(unused, 0))
    count.copy_(best.lengths)


def _orders(scores: Tensor) -> Tensor:
    bits = (scores + 0.0).view(torch.int32)
    orders = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return orders.masked_fill_(scores.isnan(), 0x7FFFFFFF)


def _ranking_warps(block: int) -> int:
    return min(8, max(1, block // 32))


def _register_write_rows() -> None:
    signature = {
        "best": "*i64:16", "best_count": "*i32:16", "values": "*fp32:16", "indices": "*i32:16",
        "count": "*i32:16", "k": "i32",
    }  # fmt: skip
    register(
        "write_rows",
        _write_rows,
        [
            Configuration(
                signature,
                {"MAGNITUDE": magnitude, "BLOCK": block, "STEP": _STEP},
                num_warps=_ranking_warps(block),
            )
            for block, magnitude in ((64, False), (16, False), (128, True), (512, False))
        ],
    )


_register_write_rows()
