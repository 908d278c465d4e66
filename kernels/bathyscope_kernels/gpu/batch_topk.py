"""BatchTopK: the exact k * rows largest scores of a group of rows, however they spread.

Flow: all rows of a group share one list and one bound. A first piece of the scores, small enough
to fit the list whole, gives the bound: the smallest of the best so far. Each time as many scores
have been seen as before, about as many candidates came up as are wanted; `_Pool.prune` then finds
the new bound and drops what is below it, without asking the device for a number. At the end the
ties at the bound are cut by row, then latent.

Scores in an unlucky order bring more candidates than the list can hold. That group is selected
again in pieces that fit, each followed by an exact cut.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from bathyscope_kernels.gpu.filter import append, empty_candidates
from bathyscope_kernels.gpu.keys import LOWEST, order_of, score_in, unpack_entries
from bathyscope_kernels.gpu.runtime import Configuration, on_device, register, tl, triton
from bathyscope_kernels.gpu.scores import Plan, Scores
from bathyscope_kernels.workspace import WORKSPACE_BYTES, blocks

_SPARE = 4096
_MAX_UNPRUNED = 2**30
"""Scores that may be filtered before the list is pruned, so that its count stays an int32."""
_BLOCK = 1024
_INFINITY = 0x7F800000

Found = tuple[Tensor, Tensor]


@triton.jit
def _write_orders(entries, count, orders, capacity, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    used = slot < tl.minimum(tl.load(count), capacity)
    entry = tl.load(entries + slot, mask=used, other=0)
    order = tl.where(used, order_of(score_in(entry), False), LOWEST)
    tl.store(orders + slot, order, mask=slot < capacity)


@triton.jit
def _prune(  # type: ignore[no-untyped-def]
    entries, rows, count, bound, into, into_rows, into_count, overflowed, capacity,
    BLOCK: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    seen = tl.load(count)
    tl.store(overflowed, 1, mask=seen > capacity)
    used = slot < tl.minimum(seen, capacity)
    entry = tl.load(entries + slot, mask=used, other=0)
    row = tl.load(rows + slot, mask=used, other=0)
    keep = used & ~(score_in(entry) <= tl.load(bound))
    kept = tl.sum(keep.to(tl.int32), 0)
    if kept > 0:
        base = tl.atomic_add(into_count, kept, sem="relaxed")
        to = base + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(into + to, entry, mask=keep)
        tl.store(into_rows + to, row, mask=keep)


@torch.no_grad()
def batch_topk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int,
    group_rows: int,
    *,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k * rows largest of relu(x @ W_enc^T + b_enc) of each group of rows.

    A group is a run of `group_rows` consecutive rows; the last may be shorter and keeps k times
    its own rows. Only positive scores count. Order of choice: larger value, then smaller row, then
    smaller latent; NaN counts as largest and stays in the values. Without a gradient.

    values [nnz] float32, indices [nnz] int32 ascending within a row, offsets [rows + 1] int64.
    Inputs and precision are as in `bathyscope_kernels.gpu.topk.topk_encode`. At most
    `workspace_bytes` of scores are alive at a time, beside lists of about ten times k * group_rows
    entries. A group is one pass over W_enc and reads two numbers back from the device. Raises
    ValueError for inputs that do not fit together, for k outside 1 .. latents and group_rows < 1.
    """
    scores = Scores(x, W_enc, b_enc)
    if not 1 <= k <= scores.num_columns:
        raise ValueError(
            f"batch_topk_encode got k = {k}, wanted 1 <= k <= {scores.num_columns}, the number of "
            "latents"
        )
    if group_rows < 1:
        raise ValueError(f"batch_topk_encode got group_rows = {group_rows}, wanted at least 1")
    plan = scores.plan(
        bytes_per_row=0,
        workspace_bytes=workspace_bytes,
        num_rows=min(group_rows, scores.num_rows),
    )
    nothing = torch.empty(0, dtype=torch.int64, device=scores.device)
    found: list[Found] = [(nothing.to(torch.float32), nothing)]
    for rows in blocks(scores.num_rows, group_rows):
        values, positions = _select_group(scores, rows, k * (rows.stop - rows.start), plan)
        found.append((values, positions + rows.start * scores.num_columns))
    values, positions = (torch.cat(parts) for parts in zip(*found, strict=True))
    starts = torch.arange(scores.num_rows + 1, device=scores.device) * scores.num_columns
    indices = (positions % scores.num_columns).to(torch.int32)
    return values, indices, torch.searchsorted(positions, starts)


class _Pool:
    """The candidates of a group: entries, their rows, and the bound that others must exceed."""

    def __init__(self, wanted: int, device: torch.device) -> None:
        self.wanted = wanted
        self.capacity = 4 * wanted + _SPARE
        self.lists = [empty_candidates(1, self.capacity, device) for _ in range(2)]
        self.rows = [
            torch.empty(1, self.capacity, dtype=torch.int32, device=device) for _ in range(2)
        ]
        self.bound = torch.zeros(1, dtype=torch.float32, device=device)
        self.overflowed = torch.zeros(1, dtype=torch.int32, device=device)

    def append(self, scores: Scores, rows: slice, columns: slice, *, first_row: int) -> None:
        append(
            scores.chunk(rows, columns), scores.bias_of(columns), self.bound, self.lists[0],
            first_column=columns.start, first_row=first_row, rows_of_entries=self.rows[0],
        )  # fmt: skip

    def prune(self) -> None:
        """Raise the bound to just below the last of the best, and drop what does not exceed it.

        Ties of the last stay: one that comes later may be in an earlier row.
        """
        lists, into = self.lists
        orders = torch.empty(self.capacity, dtype=torch.int32, device=self.bound.device)
        grid = (triton.cdiv(self.capacity, _BLOCK),)
        into.lengths.zero_()
        with on_device(orders):
            _write_orders[grid](*lists, orders, self.capacity, BLOCK=_BLOCK, num_warps=4)
            last = torch.topk(orders, self.wanted, sorted=False).values.amin().view(1)
            self.bound = _just_below(last)
            _prune[grid](
                lists.entries, self.rows[0], lists.lengths, self.bound, into.entries, self.rows[1],
                into.lengths, self.overflowed, self.capacity, BLOCK=_BLOCK, num_warps=4,
            )  # fmt: skip
        self.lists.reverse()
        self.rows.reverse()

    def cut(self, num_columns: int) -> Found | None:
        """Return the values and ascending positions of the best, exactly; None if some were lost.

        The list then holds the best alone.
        """
        entries, count = self.lists[0]
        size, overflowed = torch.cat([count, self.overflowed]).tolist()
        if overflowed or size > self.capacity:
            return None
        values, columns = unpack_entries(entries[0, :size])
        rows = self.rows[0][0, :size]
        positions, place = torch.sort(rows.to(torch.int64) * num_columns + columns)
        values = values[place]
        if size > self.wanted:
            orders = _positive_orders(values)
            last = torch.topk(orders, self.wanted, sorted=False).values.amin()
            above, tied = orders > last, orders == last
            # In ascending positions the first of the tied fill what is missing.
            kept = above | (tied & (tied.cumsum(0) <= self.wanted - above.sum()))
            values, positions, place = values[kept], positions[kept], place[kept]
            entries[0, : self.wanted], rows[: self.wanted] = entries[0, place], rows[place]
            count.fill_(self.wanted)
        return values, positions


def _select_group(scores: Scores, group: slice, wanted: int, plan: Plan) -> Found:
    """Return the values and the ascending positions of a group's best; row 0 is its first."""
    pool = _Pool(wanted, scores.device)
    seen = at_prune = 0
    for rows, columns in _pieces(group, scores.num_columns, plan, room=pool.capacity, grow=True):
        size = (rows.stop - rows.start) * (columns.stop - columns.start)
        if seen > 0 and (seen + size > 2 * at_prune or seen + size - at_prune > _MAX_UNPRUNED):
            pool.prune()
            at_prune = seen
        pool.append(scores, rows, columns, first_row=rows.start - group.start)
        seen += size
    found = pool.cut(scores.num_columns)
    return found if found is not None else _select_in_small_pieces(scores, group, wanted, plan)


def _select_in_small_pieces(scores: Scores, group: slice, wanted: int, plan: Plan) -> Found:
    pool = _Pool(wanted, scores.device)
    room = pool.capacity - wanted
    found: Found | None = None
    for rows, columns in _pieces(group, scores.num_columns, plan, room=room, grow=False):
        pool.append(scores, rows, columns, first_row=rows.start - group.start)
        found = pool.cut(scores.num_columns)
        if found is None:
            raise RuntimeError("candidates were lost although each piece fits; this is a defect")
        if found[0].numel() == wanted:
            pool.bound = _just_below(_positive_orders(found[0]).amin().view(1))
    assert found is not None, "a group has at least one row, and k latents"
    return found


def _just_below(order: Tensor) -> Tensor:
    """Return the largest score below that of an order; 0 for LOWEST, infinity for NaN."""
    return (order.clamp(min=1) - 1).clamp_(max=_INFINITY).view(torch.float32)


def _pieces(
    group: slice, num_columns: int, plan: Plan, *, room: int, grow: bool
) -> Iterator[tuple[slice, slice]]:
    """Cut a group into blocks of rows and columns of at most `room` scores.

    With `grow` only the first has to fit, and each next one may be as large as all before it.
    """
    seen = 0
    for start in range(group.start, group.stop, plan.num_rows):
        rows = slice(start, min(start + plan.num_rows, group.stop))
        height, column = rows.stop - rows.start, 0
        while column < num_columns:
            limit = max(room, seen) if grow else room
            width = min(plan.num_columns, max(1, limit // height), num_columns - column)
            yield rows, slice(column, column + width)
            column += width
            seen += height * width


def _positive_orders(values: Tensor) -> Tensor:
    """Return int32 that compare like positive values, with NaN above all."""
    return values.view(torch.int32).masked_fill(values.isnan(), 0x7FFFFFFF)


def _register() -> None:
    lists = {"entries": "*i64:16", "count": "*i32:16", "capacity": "i32:16"}
    register(
        "write_orders",
        _write_orders,
        [Configuration(lists | {"orders": "*i32:16"}, {"BLOCK": _BLOCK})],
    )
    others = dict.fromkeys(("rows", "into_rows", "into_count", "overflowed"), "*i32:16")
    signature = lists | others | {"into": "*i64:16", "bound": "*fp32:16"}
    register("prune", _prune, [Configuration(signature, {"BLOCK": _BLOCK})])


_register()
