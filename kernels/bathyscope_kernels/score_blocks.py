"""Scores x @ W^T + b, a block of rows and columns at a time, and what is kept of them.

Flow: `score_blocks` yields the blocks, a selection marks entries in each, `take` copies the marked
ones out as lists of values and positions. A position is row * num_columns + column as an int64: it
carries both coordinates, and its order is that of rows, then columns. `orderable` maps scores to
integers of the same order, in which NaN has a place.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.workspace import accumulate_dtype, blocks

_MAX_ROWS = 512
_MAX_COLUMNS = 4096
_MIN_COLUMNS = 16

_INTEGER_OF = {torch.float32: (torch.int32, 32), torch.float64: (torch.int64, 64)}

TAKE_BYTES = 40
"""Bytes per score while `take` copies all of a block: marks, positions and rows, values."""

KEEP_BYTES = TAKE_BYTES + 8
"""The same, and the magnitude of the score for those who mark by it."""


class Block(NamedTuple):
    """A block of scores. Its memory is used again for the next one."""

    rows: slice
    columns: slice
    scores: Tensor
    """[rows, columns] float32, or float64 from float64 inputs; contiguous."""


def score_blocks(
    x: Tensor, W: Tensor, b: Tensor | None, *, bytes_per_score: int, workspace_bytes: int
) -> Iterator[Block]:
    """Yield x @ W^T + b in blocks, all columns of some rows before the next rows.

    x is [rows, d], W [columns, d], b [columns] or None. `bytes_per_score` is what the caller needs
    for one score, the score included; copies of x and W that are made to convert them come on top,
    and all together fits `workspace_bytes`.
    """
    if x.shape[0] == 0 or W.shape[0] == 0:
        return
    dtype = accumulate_dtype(x=x, W=W)
    num_rows, num_columns = _sizes(x, W, bytes_per_score, workspace_bytes)
    buffer = x.new_empty(num_rows * num_columns, dtype=dtype)
    for rows in blocks(x.shape[0], num_rows):
        rows_x = x[rows].to(dtype)
        for columns in blocks(W.shape[0], num_columns):
            # Converted here because a bfloat16 matmul rounds its scores.
            part = W[columns].to(dtype).T
            shape = (rows_x.shape[0], part.shape[1])
            scores = buffer[: shape[0] * shape[1]].view(shape)
            if b is None:
                torch.mm(rows_x, part, out=scores)
            else:
                torch.addmm(b[columns].to(dtype), rows_x, part, out=scores)
            del part
            yield Block(rows, columns, scores)


def pieces(block: Block, *, bytes_per_score: int, workspace_bytes: int) -> Iterator[Block]:
    """Cut a block into runs of rows that can be worked on within `workspace_bytes`.

    A matmul wants large blocks, while a selection may keep all of a block and needs several times
    its memory.
    """
    num_rows, num_columns = block.scores.shape
    size = max(1, workspace_bytes // (bytes_per_score * num_columns))
    for part in blocks(num_rows, size):
        rows = slice(block.rows.start + part.start, block.rows.start + part.stop)
        yield Block(rows, block.columns, block.scores[part])


def take(block: Block, kept: Tensor, num_columns: int) -> tuple[Tensor, Tensor]:
    """Return the values and the positions of the marked entries of a block, in its order."""
    positions = kept.view(-1).nonzero().squeeze(1)
    values = block.scores.view(-1)[positions]
    width = block.scores.shape[1]
    # From the place in the block to the place in the matrix: a row there is longer.
    rows = positions.div(width, rounding_mode="floor")
    positions.add_(rows, alpha=num_columns - width)
    return values, positions.add_(block.rows.start * num_columns + block.columns.start)


def collect(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    keep: Callable[[Block], Tensor],
    *,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor]:
    """Return values and ascending positions of all scores that `keep` marks in their block."""
    dtype = accumulate_dtype(x=x, W=W)
    values, positions = [x.new_empty(0, dtype=dtype)], [x.new_empty(0, dtype=torch.int64)]
    of_rows: list[tuple[Tensor, Tensor]] = []
    half = workspace_bytes // 2
    for block in score_blocks(x, W, b, bytes_per_score=dtype.itemsize, workspace_bytes=half):
        for piece in pieces(block, bytes_per_score=KEEP_BYTES, workspace_bytes=half):
            of_rows.append(take(piece, keep(piece), W.shape[0]))
        if block.columns.stop == W.shape[0]:
            # All columns of these rows are done: put the lists of the blocks into one order.
            ascending, order = torch.sort(torch.cat([found[1] for found in of_rows]))
            values.append(torch.cat([found[0] for found in of_rows])[order])
            positions.append(ascending)
            of_rows = []
    return torch.cat(values), torch.cat(positions)


def orderable(scores: Tensor) -> Tensor:
    """Map float32 to int32, or float64 to int64, so that the integers compare like the scores.

    -0.0 equals 0.0, and every NaN becomes the largest integer.
    """
    integer, bits = _INTEGER_OF[scores.dtype]
    largest = 2 ** (bits - 1) - 1
    # Adding 0.0 turns -0.0 into 0.0, which else would come below it.
    raw = (scores + 0.0).view(integer)
    raw ^= (raw >> (bits - 1)).bitwise_and_(largest)
    return raw.masked_fill_(scores.isnan(), largest)


def orderable_magnitude(scores: Tensor) -> Tensor:
    """The same for the magnitude of the scores, in two passes: zero becomes 0."""
    integer, bits = _INTEGER_OF[scores.dtype]
    infinity = int(torch.tensor(torch.inf, dtype=scores.dtype).view(integer))
    # Without their sign, bits compare like magnitudes, and those of any NaN are above infinity.
    return (scores.view(integer) & (2 ** (bits - 1) - 1)).clamp_max_(infinity + 1)


def _sizes(x: Tensor, W: Tensor, bytes_per_score: int, workspace_bytes: int) -> tuple[int, int]:
    """Return the rows and columns of a block; at most half of the memory goes to a copy of W."""
    dtype = accumulate_dtype(x=x, W=W)
    copied_W = 0 if W.dtype == dtype else W.shape[1] * dtype.itemsize
    copied_x = 0 if x.dtype == dtype else x.shape[1] * dtype.itemsize
    # 32 scores per column leave room for about as many rows.
    fitting = workspace_bytes // 2 // max(32 * bytes_per_score, copied_W)
    num_columns = min(W.shape[0], _MAX_COLUMNS, max(_MIN_COLUMNS, fitting))
    left = workspace_bytes - copied_W * num_columns
    num_rows = left // (bytes_per_score * num_columns + copied_x)
    return max(1, min(_MAX_ROWS, x.shape[0], num_rows)), num_columns
