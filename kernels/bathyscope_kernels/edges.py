"""Edges between two sets of vectors: the strongest dot products of each target.

Flow: targets [n, d] and sources [m, d] go in, the kept entries of targets @ sources^T come out: the
k best per target (`topk_edges`) or all above a threshold (`threshold_edges`). Virtual weights
between the latents of two layers are such products of decoder and encoder rows. The [n, m] matrix
exists only a block at a time.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.cpu import encode as cpu
from bathyscope_kernels.dispatch import on_gpu
from bathyscope_kernels.ragged import Ragged, from_positions
from bathyscope_kernels.score_blocks import (
    Block,
    collect,
    orderable,
    orderable_magnitude,
    score_blocks,
)
from bathyscope_kernels.select import choose_groups
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype, blocks

# The score, and while it becomes an integer three more of its size, 8 bytes at most.
_BYTES_PER_SCORE = 40


class Edges(NamedTuple):
    """The kept sources of each target, best first, then by smaller source."""

    values: Tensor
    """[n, k] float32 (float64 from float64 inputs), signed; 0 past the count."""
    indices: Tensor
    """[n, k] int32 sources; 0 past the count."""
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody misses
    """[n] int32: how many entries are edges."""


@torch.no_grad()
def topk_edges(
    targets: Tensor,
    sources: Tensor,
    k: int,
    *,
    magnitude: bool = True,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Edges:
    """Return the k best of targets @ sources^T per target, without a gradient.

    With `magnitude` the best are those of largest |value|, and a product of zero is no edge, so
    a target may have fewer than k. Without it all signed values compete, negative ones too, and
    the count is k. Of equals the smaller source wins; NaN counts as largest.

    targets [n, d] and sources [m, d] are float32, bfloat16 or float16 in any mix, accumulated in
    float32; or both float64. At most `workspace_bytes` of temporaries are alive at a time, beside
    lists of a few times n * k entries. Raises ValueError for shapes, dtypes or devices that do
    not fit together, and for k outside 1 .. m.
    """
    _check(targets, sources)
    if not 1 <= k <= sources.shape[0]:
        raise ValueError(
            f"topk_edges got k = {k}, wanted 1 <= k <= {sources.shape[0]}, the number of sources"
        )
    return Edges(*_topk_edges(targets, sources, k, magnitude, workspace_bytes))


@torch.library.custom_op("bathyscope::topk_edges", mutates_args=())
def _topk_edges(
    targets: Tensor, sources: Tensor, k: int, magnitude: bool, workspace_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    if on_gpu(targets, sources):
        from bathyscope_kernels.gpu import edges as gpu

        return gpu.topk_edges(
            targets, sources, k, magnitude=magnitude, workspace_bytes=workspace_bytes
        )
    if cpu.why_not(targets, sources, sources[:0]):
        return _in_torch(targets, sources, k, magnitude, workspace_bytes)
    rows, d = targets.shape
    values, indices, count, undone = cpu.topk_encode(
        targets.float().contiguous(), sources, sources.new_zeros(len(sources)), None, k,
        workspace_bytes=workspace_bytes,
        rounded=cpu.rounding_pays(rows, d, len(sources), k),
        rule=cpu.Rule.MAGNITUDE if magnitude else cpu.Rule.ALL,
    )  # fmt: skip
    if len(undone) > 0:
        again = _in_torch(targets[undone], sources, k, magnitude, workspace_bytes)
        values[undone], indices[undone], count[undone] = again
    return values, indices, count


def _in_torch(
    targets: Tensor, sources: Tensor, k: int, magnitude: bool, workspace_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulate_dtype(targets=targets, sources=sources)
    values = targets.new_empty(targets.shape[0], k, dtype=dtype)
    indices = torch.empty(targets.shape[0], k, dtype=torch.int32, device=targets.device)
    count = torch.empty(targets.shape[0], dtype=torch.int32, device=targets.device)
    best: _Best | None = None
    for block in score_blocks(
        targets,
        sources,
        None,
        bytes_per_score=_BYTES_PER_SCORE,
        workspace_bytes=workspace_bytes // 2,
    ):
        found = _best_of_block(block, k, magnitude, workspace_bytes // 2)
        best = found if best is None else _merge(best, found, k)
        if block.columns.stop == sources.shape[0]:
            rows = block.rows
            unused = (
                best.order == 0 if magnitude else torch.zeros_like(best.order, dtype=torch.bool)
            )
            values[rows] = best.values.masked_fill(unused, 0)
            indices[rows] = best.indices.masked_fill(unused, 0).to(torch.int32)
            count[rows] = k - unused.sum(1, dtype=torch.int32)
            best = None
    return values, indices, count


@_topk_edges.register_fake
def _(
    targets: Tensor, sources: Tensor, k: int, magnitude: bool, workspace_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    rows = targets.shape[0]
    return (
        targets.new_empty(rows, k, dtype=accumulate_dtype(targets=targets, sources=sources)),
        targets.new_empty(rows, k, dtype=torch.int32),
        targets.new_empty(rows, dtype=torch.int32),
    )


@torch.no_grad()
def threshold_edges(
    targets: Tensor,
    sources: Tensor,
    threshold: float,
    *,
    magnitude: bool = True,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Ragged:
    """Return all of targets @ sources^T above `threshold`, without a gradient.

    With `magnitude` that is |value| > threshold, else value > threshold; the values are signed,
    and a NaN counts as above. Rows of the result are targets, its indices are sources. Inputs and
    memory are as in `topk_edges`; the result is as long as it is. Raises ValueError for inputs
    that do not fit together, for a NaN, and with `magnitude` for a threshold below 0.
    """
    _check(targets, sources)
    if math.isnan(threshold) or (magnitude and threshold < 0):
        raise ValueError(
            f"threshold_edges got threshold = {threshold}, wanted a number"
            + (" >= 0, as magnitudes are" if magnitude else "")
        )
    return Ragged(*_threshold_edges(targets, sources, threshold, magnitude, workspace_bytes))


@torch.library.custom_op("bathyscope::threshold_edges", mutates_args=())
def _threshold_edges(
    targets: Tensor, sources: Tensor, threshold: float, magnitude: bool, workspace_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    if on_gpu(targets, sources):
        from bathyscope_kernels.gpu import edges as gpu

        return gpu.threshold_edges(
            targets, sources, threshold, magnitude=magnitude, workspace_bytes=workspace_bytes
        )

    def keep(block: Block) -> Tensor:
        strength = block.scores.abs() if magnitude else block.scores
        return (strength <= threshold).logical_not_()

    values, positions = collect(
        targets,
        sources,
        None,
        keep,
        workspace_bytes=workspace_bytes,
    )
    return from_positions(
        values, positions, num_rows=targets.shape[0], num_columns=sources.shape[0]
    )


@_threshold_edges.register_fake
def _(
    targets: Tensor, sources: Tensor, threshold: float, magnitude: bool, workspace_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    nnz = torch.library.get_ctx().new_dynamic_size()
    return (
        targets.new_empty(nnz, dtype=accumulate_dtype(targets=targets, sources=sources)),
        targets.new_empty(nnz, dtype=torch.int32),
        targets.new_empty(targets.shape[0] + 1, dtype=torch.int64),
    )


class _Best(NamedTuple):
    order: Tensor
    """[rows, k] integers that compare like the strength, descending."""
    indices: Tensor
    values: Tensor


def _best_of_block(block: Block, k: int, magnitude: bool, workspace_bytes: int) -> _Best:
    scores = block.scores
    order = orderable_magnitude(scores) if magnitude else orderable(scores)
    width = min(k, scores.shape[1])
    best, indices = _top(order, width, workspace_bytes)
    return _Best(best, indices + block.columns.start, scores.gather(1, indices))


def _merge(first: _Best, second: _Best, k: int) -> _Best:
    """Join two results; all sources of `first` come before those of `second`."""
    joined = [torch.cat(pair, dim=1) for pair in zip(first, second, strict=True)]
    order, chosen = torch.sort(joined[0], dim=1, descending=True, stable=True)
    chosen = chosen[:, :k]
    return _Best(order[:, :k], joined[1].gather(1, chosen), joined[2].gather(1, chosen))


def _top(order: Tensor, k: int, workspace_bytes: int) -> tuple[Tensor, Tensor]:
    """Return the k largest integers of each row, descending, and their columns; exact on ties.

    A top-k breaks ties at random. The integer in place k + 1 shows whether that could matter, and
    rows where it could are sorted.
    """
    width = min(k + 1, order.shape[1])
    indices = _columns_of_top(order, width).sort(dim=1).values
    best, place = order.gather(1, indices).sort(dim=1, descending=True, stable=True)
    indices = indices.gather(1, place)
    if width > k:
        rows = (best[:, k - 1] == best[:, k]).nonzero().squeeze(1)
        # The rows, sorted rows and int64 places; a sort works on a copy.
        per_block = max(1, workspace_bytes // (40 * order.shape[1]))
        for part in blocks(rows.numel(), per_block):
            ranked = order[rows[part]].sort(dim=1, descending=True, stable=True)
            best[rows[part], :k] = ranked.values[:, :k]
            indices[rows[part], :k] = ranked.indices[:, :k]
    return best[:, :k], indices[:, :k]


def _columns_of_top(order: Tensor, width: int) -> Tensor:
    """Return the columns of the `width` largest integers of each row, in no order.

    They lie in the `width` groups of columns with the largest maxima, as in `select`; the columns
    left over when groups are full are looked at one by one.
    """
    rows, columns = order.shape
    group_size, _ = choose_groups(columns, width)
    if group_size == 1:
        return torch.topk(order, width, dim=1, sorted=False).indices
    num_groups = columns // group_size
    grouped = num_groups * group_size
    maxima = order[:, :grouped].unflatten(1, (group_size, num_groups)).amax(1)
    groups = torch.topk(maxima, width, dim=1, sorted=False).indices
    steps = torch.arange(0, grouped, num_groups, device=order.device)
    members = (groups[:, None, :] + steps[:, None]).view(rows, -1)
    rest = torch.arange(grouped, columns, device=order.device).expand(rows, -1)
    members = torch.cat([members, rest], dim=1)
    best = torch.topk(order.gather(1, members), width, dim=1, sorted=False).indices
    return members.gather(1, best)


def _check(targets: Tensor, sources: Tensor) -> None:
    if targets.ndim != 2 or sources.ndim != 2 or targets.shape[1] != sources.shape[1]:
        raise ValueError(
            f"got targets {list(targets.shape)}, sources {list(sources.shape)}; wanted targets "
            "[n, d] and sources [m, d] of one d"
        )
    if targets.device != sources.device:
        raise ValueError(
            f"got targets on {targets.device}, sources on {sources.device}; wanted one device"
        )
    accumulate_dtype(targets=targets, sources=sources)
