"""The filter: reads each score of a chunk once and appends those that exceed a bound to a list.

Flow: a chunk of scores goes in; the entries of each row, or of all rows together, come out at the
end of their list. The bound belongs to the list (the k-th best so far) or to the column (a
threshold per latent). The count of a list goes on past its capacity, so that the caller sees that
entries were lost.

A program takes a run of columns of one row. `append` lets programs take their slots with one
integer atomic each: the order in a list is random, and whoever reads it selects by order and
column, so that the result is not. `append_in_order` gives a row to one program, which appends in
ascending order of columns without atomics.
"""

import torch
from torch import Tensor

from bathyscope_kernels.gpu.keys import pack
from bathyscope_kernels.gpu.runtime import Configuration, on_device, register, tl, triton
from bathyscope_kernels.gpu.select import Candidates

_BLOCK = 2048
_WARPS = 4


@triton.jit(do_not_specialize=["first_column", "first_row", "capacity"])
def _filter(  # type: ignore[no-untyped-def]
    scores, bias, bound, entries, entry_rows, count,
    width, first_column, first_row, capacity,
    HAS_BIAS: tl.constexpr, MAGNITUDE: tl.constexpr, PER_COLUMN: tl.constexpr,
    SHARED: tl.constexpr, IN_ORDER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if SHARED:
        list_of_row = row * 0
    else:
        list_of_row = row
    is_open = list_of_row >= 0
    if not PER_COLUMN:
        least = tl.load(bound + list_of_row)
        # A bound that is NaN is that of a list full of NaN, which no later score can enter.
        is_open = least == least
    # Bounds that are multiples of BLOCK, as the compiler sees, so that it loads 16 bytes at once.
    if IN_ORDER:
        # Only where no other program writes: threads could see different counts, and part.
        seen = tl.load(count + row)
        first = 0
        last = width
    else:
        first = tl.program_id(1) * BLOCK
        last = first + BLOCK
    if is_open:
        for start in range(first, last, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < width
            score = tl.load(scores + row * width + column, mask=inside, other=0.0)
            if HAS_BIAS:
                score += tl.load(bias + column, mask=inside, other=0.0)
            strength = tl.abs(score) if MAGNITUDE else score
            # Negated comparisons let NaN through.
            if PER_COLUMN:
                lower = tl.load(bound + column, mask=inside, other=0.0)
                keep = inside & ~(strength <= lower)
            else:
                keep = inside & ~(strength <= least)
            kept = tl.sum(keep.to(tl.int32), 0)
            if kept > 0:
                if IN_ORDER:
                    base = seen
                    seen += kept
                else:
                    base = tl.atomic_add(count + list_of_row, kept, sem="relaxed")
                slot = base + tl.cumsum(keep.to(tl.int32), 0) - 1
                fits = keep & (slot < capacity)
                to = list_of_row * capacity + slot
                tl.store(entries + to, pack(score, first_column + column), mask=fits)
                if SHARED:
                    tl.store(entry_rows + to, first_row + row.to(tl.int32), mask=fits)
        if IN_ORDER:
            tl.store(count + row, seen)


def append(
    scores: Tensor,
    bias: Tensor | None,
    bound: Tensor,
    lists: Candidates,
    *,
    first_column: int,
    magnitude: bool = False,
    rows_of_entries: Tensor | None = None,
    first_row: int = 0,
) -> None:
    """Append the scores [rows, columns] that exceed `bound`, NaN among them, in no order.

    `bound` is float32, one for each list; one that is NaN closes its list. With `rows_of_entries`
    [1, capacity] int32 there is one list for all rows, and the row of each entry goes there. A
    count is an int32: fewer than 2**31 scores may exceed the bound of a list before it is emptied.
    """
    rows, width = scores.shape
    shared = rows_of_entries is not None
    with on_device(scores):
        _filter[(rows, triton.cdiv(width, _BLOCK))](
            scores, bias if bias is not None else scores, bound, lists.entries,
            rows_of_entries if shared else lists.lengths, lists.lengths,
            width, first_column, first_row, lists.entries.shape[1],
            HAS_BIAS=bias is not None, MAGNITUDE=magnitude, PER_COLUMN=False,
            SHARED=shared, IN_ORDER=False, BLOCK=_BLOCK, num_warps=_WARPS,
        )  # fmt: skip


def append_in_order(
    scores: Tensor,
    bias: Tensor | None,
    bound: Tensor,
    lists: Candidates,
    *,
    first_column: int,
    magnitude: bool = False,
    per_column: bool,
) -> None:
    """Append the scores [rows, columns] that exceed `bound`, NaN among them, column by column.

    `bound` is float32, one for each row or with `per_column` for each column of the chunk.
    """
    rows, width = scores.shape
    with on_device(scores):
        _filter[(rows,)](
            scores, bias if bias is not None else scores, bound, lists.entries,
            lists.lengths, lists.lengths,
            width, first_column, 0, lists.entries.shape[1],
            HAS_BIAS=bias is not None, MAGNITUDE=magnitude, PER_COLUMN=per_column,
            SHARED=False, IN_ORDER=True, BLOCK=_BLOCK, num_warps=_WARPS,
        )  # fmt: skip


def empty_candidates(num_lists: int, capacity: int, device: torch.device) -> Candidates:
    """Make lists without entries."""
    return Candidates(
        torch.empty(num_lists, capacity, dtype=torch.int64, device=device),
        torch.zeros(num_lists, dtype=torch.int32, device=device),
    )


def _configuration(
    *, bias: bool, magnitude: bool = False, per_column: bool, shared: bool, in_order: bool
) -> Configuration:
    return Configuration(
        signature={
            "scores": "*fp32:16", "bias": "*fp32:16", "bound": "*fp32:16", "entries": "*i64:16",
            "entry_rows": "*i32:16", "count": "*i32:16", "width": "i32:16",
            "first_column": "i32", "first_row": "i32", "capacity": "i32",
        },
        constexprs={
            "HAS_BIAS": bias, "MAGNITUDE": magnitude, "PER_COLUMN": per_column, "SHARED": shared,
            "IN_ORDER": in_order, "BLOCK": _BLOCK,
        },
        num_warps=_WARPS,
    )  # fmt: skip


register(
    "filter",
    _filter,
    [
        _configuration(bias=True, per_column=False, shared=False, in_order=False),
        _configuration(bias=False, magnitude=True, per_column=False, shared=False, in_order=False),
        _configuration(bias=True, per_column=False, shared=True, in_order=False),
        _configuration(bias=True, per_column=True, shared=False, in_order=True),
        _configuration(bias=False, magnitude=True, per_column=False, shared=False, in_order=True),
    ],
)
