"""TopK: the exact k largest scores of each row, with the [rows, columns] scores never in memory.

Flow: rows and an encoder go in, values, indices and counts come out. A block of rows goes through
all columns in stages. The first stage takes the k best of a few thousand columns; their k-th is a
bound that every later one must exceed, and each next stage, as long as all before it together,
brings about k new candidates per row, which are merged into a better bound.

Columns in an unlucky order, such as ascending, bring more candidates than there is room for. Rows
that lost some are selected again, with the k best of each chunk as the candidates: slower, and
nothing can be lost.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.gpu.best_rows import write_rows
from bathyscope_kernels.gpu.filter import append, empty_candidates
from bathyscope_kernels.gpu.runtime import triton
from bathyscope_kernels.gpu.scores import Scores
from bathyscope_kernels.gpu.select import (
    MAX_DENSE,
    MAX_K,
    Best,
    Candidates,
    list_length,
    merge,
    select_dense,
)
from bathyscope_kernels.keys import pack_keys, unpack_keys
from bathyscope_kernels.workspace import WORKSPACE_BYTES, blocks

_MIN_FIRST = 1024
_MAX_STAGED_K = 5000
"""Above this k the lists have room for less than 2 k candidates, so too many rows overflow."""
_AGAIN_ROWS = 1024
"""Rows that overflowed and are selected again at a time: they are copied."""

Result = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def topk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int,
    *,
    subset: Tensor | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Result:
    """Return the k largest of relu(x @ W_enc^T + b_enc) per row, without a gradient.

    values [rows, k] float32 in descending order, indices [rows, k] int32, count [rows] int32; past
    the count value and index are 0. Of equal scores the smaller index wins; NaN counts as largest
    and stays in the values. Selection is exact on the float32 scores.

    x [rows, d], W_enc [latents, d] and b_enc [latents] are float32, bfloat16 or float16 in any mix
    on one CUDA device. With `subset` (int64 [size], ascending) only those latents take part, and
    the indices are positions in it. Products of float32 follow
    torch.backends.cuda.matmul.allow_tf32.

    At most `workspace_bytes` of temporaries are used, and never more than 256 MiB, beside the
    bias in float32. Reads one number back from the device. Raises ValueError for shapes, dtypes or
    devices that do not fit together, and for k outside 1 .. latents.
    """
    scores = Scores(x, W_enc, b_enc, subset)
    if not 1 <= k <= scores.num_columns:
        raise ValueError(
            f"topk_encode got k = {k}, wanted 1 <= k <= {scores.num_columns}, the number of latents"
        )
    return select_rows(scores, k, positive=True, magnitude=False, workspace_bytes=workspace_bytes)


def select_rows(
    scores: Scores, k: int, *, positive: bool, magnitude: bool, workspace_bytes: int
) -> Result:
    """Return the k best scores of each row: `positive` ones, those of largest `magnitude` other
    than zero, or with neither all that there are.
    """
    rule = _Rule(k, 0 if positive or magnitude else -(2**31), magnitude)
    out = _empty(scores.num_rows, k, scores.device)
    if scores.num_rows == 0:
        return out
    if k > MAX_K:
        _select_by_sort(scores, rule, out, workspace_bytes)
        return out
    overflowed = torch.zeros(scores.num_rows, dtype=torch.int32, device=scores.device)
    if not _select(scores, rule, out, overflowed, workspace_bytes, staged=True):
        return out
    lost = overflowed.nonzero().squeeze(1)
    for again in lost.split(_AGAIN_ROWS) if lost.numel() > 0 else ():
        part = _empty(again.numel(), k, scores.device)
        _select(scores.rows(again), rule, part, overflowed, workspace_bytes, staged=False)
        for whole, some in zip(out, part, strict=True):
            whole[again] = some
    return out


class _Rule(NamedTuple):
    k: int
    floor: int
    """The order that an entry must exceed."""
    magnitude: bool


def _empty(rows: int, k: int, device: torch.device) -> Result:
    return (
        torch.empty(rows, k, dtype=torch.float32, device=device),
        torch.empty(rows, k, dtype=torch.int32, device=device),
        torch.empty(rows, dtype=torch.int32, device=device),
    )


class _State:
    """What a block of rows has found. Its memory is used again for the next block."""

    def __init__(self, num_rows: int, k: int, device: torch.device) -> None:
        self.best = [
            Best(*empty_candidates(num_rows, k, device)),
            Best(*empty_candidates(num_rows, k, device)),
        ]
        self.candidates = empty_candidates(num_rows, list_length(k) - k, device)
        self.tau = torch.empty(num_rows, dtype=torch.float32, device=device)

    @staticmethod
    def bytes_per_row(k: int) -> int:
        return 8 * (2 * k + list_length(k) - k) + 16

    def start(self, num_rows: int) -> "_State":
        """Return empty lists for the next rows, in the same memory."""
        part = object.__new__(_State)
        part.best = [Best(*(tensor[:num_rows] for tensor in best)) for best in self.best]
        part.candidates = Candidates(*(tensor[:num_rows] for tensor in self.candidates))
        part.tau = self.tau[:num_rows]
        part.best[0].lengths.zero_()
        part.candidates.lengths.zero_()
        return part

    def merge(self, rule: _Rule, overflowed: Tensor) -> None:
        merge(
            self.best[0], self.candidates, self.best[1], self.tau, overflowed,
            k=rule.k, magnitude=rule.magnitude,
        )  # fmt: skip
        self.best.reverse()


def _select(
    scores: Scores,
    rule: _Rule,
    out: Result,
    overflowed: Tensor,
    workspace_bytes: int,
    *,
    staged: bool,
) -> bool:
    """Select all rows and return whether candidates can have been lost."""
    plan = scores.plan(bytes_per_row=_State.bytes_per_row(rule.k), workspace_bytes=workspace_bytes)
    first = min(_first_columns(rule.k), plan.num_columns)
    # A bound needs k entries from the first stage.
    staged = staged and rule.k <= min(first, _MAX_STAGED_K) and first < scores.num_columns
    if staged:
        stages = _stages(scores.num_columns, first)
        width = plan.num_columns
    else:
        width = min(MAX_DENSE, plan.num_columns)
        stages = list(blocks(scores.num_columns, width))
    state = _State(plan.num_rows, rule.k, scores.device)
    for rows in blocks(scores.num_rows, plan.num_rows):
        here = state.start(rows.stop - rows.start)
        for stage in stages:
            for part in blocks(stage.stop - stage.start, width):
                columns = slice(stage.start + part.start, stage.start + part.stop)
                dense = not staged or stage.start == 0
                _add_candidates(scores, rows, columns, here, rule, dense=dense)
            here.merge(rule, overflowed[rows])
        write_rows(here.best[0], *(tensor[rows] for tensor in out), magnitude=rule.magnitude)
    return staged


def _add_candidates(
    scores: Scores, rows: slice, columns: slice, state: _State, rule: _Rule, *, dense: bool
) -> None:
    chunk, bias = scores.chunk(rows, columns), scores.bias_of(columns)
    if dense:
        select_dense(
            chunk, bias, state.candidates,
            first_column=columns.start, k=rule.k, floor=rule.floor, magnitude=rule.magnitude,
        )  # fmt: skip
    else:
        append(
            chunk, bias, state.tau, state.candidates,
            first_column=columns.start, magnitude=rule.magnitude,
        )  # fmt: skip


def _first_columns(k: int) -> int:
    """Return the length of the first stage: long enough for a good bound, short enough to hold."""
    return min(MAX_DENSE, max(_MIN_FIRST, triton.next_power_of_2(32 * k)))


def _stages(num_columns: int, first: int) -> list[slice]:
    """Cut the columns into stages, each as long as all before it; a short last one is joined."""
    stages = [slice(0, first)]
    while stages[-1].stop < num_columns:
        start = stages[-1].stop
        stop = 2 * start
        if num_columns - stop < start // 2:
            stop = num_columns
        stages.append(slice(start, stop))
    return stages


def _select_by_sort(scores: Scores, rule: _Rule, out: Result, workspace_bytes: int) -> None:
    """The same for a k that no program can hold, on order keys in torch."""
    # Keys and the steps on the way to them: about eight int64 per score, and the k best.
    plan = scores.plan(bytes_per_row=96 * rule.k, workspace_bytes=workspace_bytes // 16)
    columns_of = torch.arange(scores.num_columns, device=scores.device)
    for rows in blocks(scores.num_rows, plan.num_rows):
        best = torch.empty(rows.stop - rows.start, 0, dtype=torch.int64, device=scores.device)
        signs = torch.empty_like(best, dtype=torch.bool)
        for columns in blocks(scores.num_columns, plan.num_columns):
            chunk, bias = scores.chunk(rows, columns), scores.bias_of(columns)
            found = chunk if bias is None else chunk + bias
            keys = pack_keys(found.abs() if rule.magnitude else found, columns_of[columns])
            keys = torch.cat([best, keys], dim=1)
            signs = torch.cat([signs, found < 0], dim=1)
            best, place = torch.topk(keys, min(rule.k, keys.shape[1]), dim=1)
            signs = signs.gather(1, place)
        values, indices = unpack_keys(best)
        unused = (best >> 32) <= rule.floor
        values = torch.where(signs & rule.magnitude, -values, values).masked_fill_(unused, 0)
        out[0][rows], out[1][rows] = values, indices.masked_fill_(unused, 0).to(torch.int32)
        out[2][rows] = (~unused).sum(1, dtype=torch.int32)
