"""Threshold select on the CPU: every pre-activation above the floor of its latent, as CSR.

Flow: blocks of scores from torch's matmul go through a compiled scan that appends what is above.
As in `cpu.encode`, scores are made in bfloat16 where the CPU multiplies it: what may be above its
floor within the margin of the rounding is scored again in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.cpu.encode import (
    _LARGEST,
    _ROUNDING,
    _SMALLEST,
    _round,
    _widths,
    rounds_scores,
)
from bathyscope_kernels.cpu.library import call, threads
from bathyscope_kernels.workspace import blocks

# Below this many products rounding and scoring again cost more than they save.
_MIN_PRODUCTS = 2**24


class TooManyEntries(ValueError):
    """More entries are above the floor than were to be held."""


class _Piece(NamedTuple):
    """What is above in some latents, for all rows."""

    counts: Tensor
    values: Tensor
    columns: Tensor


def encode_above(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    floor: Tensor | None,
    *,
    workspace_bytes: int,
    most_entries: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values [nnz] float32, indices [nnz] int32 and offsets [rows + 1] int64.

    x, W_enc, b_enc and floor (or None: zeros) are float32 and contiguous. Raises `TooManyEntries`.
    """
    pays = x.shape[0] * x.shape[1] * W_enc.shape[0] >= _MIN_PRODUCTS and rounds_scores()
    norms = _round(x, x.shape[0]) if pays else None
    if norms is not None and not bool(((norms[1] > _SMALLEST) & (norms[1] < _LARGEST)).all()):
        # Rows that a margin cannot cover.
        norms = None
    found: list[_Piece] = []
    total = 0
    d, rows = x.shape[1], x.shape[0]
    if rows == 0:
        return _joined([], rows)
    num_rows, width = _widths(W_enc.shape[0], 2 * d + 24, workspace_bytes // 2)
    for latents in blocks(W_enc.shape[0], width):
        scan = _Scan(x, W_enc, b_enc, floor, latents, width, norms)
        parts = [scan.rows(part) for part in blocks(rows, num_rows)]
        counts, values, columns = (torch.cat(each) for each in zip(*parts, strict=True))
        found.append(_Piece(counts, values, columns))
        total += values.numel()
        if most_entries is not None and total > most_entries:
            raise TooManyEntries(
                f"more than {most_entries} pre-activations of {rows} rows are above their floor"
            )
    return _joined(found, rows)


class _Scan:
    """A block of latents, ready to be scored."""

    def __init__(
        self,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        floor: Tensor | None,
        latents: slice,
        width: int,
        rounded_x: tuple[Tensor, Tensor, Tensor] | None,
    ) -> None:
        self._x, self._first, self._width = x, latents.start, width
        self._W, self._bias = W_enc[latents], b_enc[latents]
        self._floor = None
        if floor is not None:
            self._floor = torch.zeros(width)
            self._floor[: len(self._bias)] = floor[latents]
        self._rounded_x = rounded_x
        self._high = torch.full((width,), -torch.inf)
        used = len(self._bias)
        if rounded_x is None:
            self._high[:used] = self._bias
            self._scores = torch.zeros(512, width)
            return
        self._rounded_W, norm, lost = _round(self._W, width)
        level = self._bias if floor is None else self._bias - floor[latents]
        size = self._bias.abs() if floor is None else self._bias.abs() + floor[latents].abs()
        self._high[:used] = level + size * 5e-7
        share = torch.where(norm > _SMALLEST, lost / norm, 0).amax()
        _, x_norm, x_lost = rounded_x
        d = x.shape[1]
        self._error = (x_lost + (x_norm + x_lost) * share + x_norm * ((d + 8) * 2.0**-23)) * 1.001
        self._norm = norm * (1 + d * 2.0**-22) + 1e-9
        self._scores = torch.empty(512, width, dtype=torch.bfloat16)

    def rows(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Counts [rows], values and columns of some rows."""
        num = rows.stop - rows.start
        counts = torch.empty(num, dtype=torch.int64)
        scores = self._scores[:num]
        used = len(self._bias)
        if self._rounded_x is None:
            torch.mm(self._x[rows], self._W.T, out=scores[:, :used])
            handle = call(
                "above_fp32", scores, self._width, num, self._bias, self._floor, self._first,
                self._width, self._high, counts, threads(),
            )  # fmt: skip
        else:
            torch.mm(self._rounded_x[0][rows], self._rounded_W.T, out=scores)
            handle = call(
                "above_bf16", scores, self._width, num, self._x[rows], self._W, self._bias,
                self._floor, self._x.shape[1], self._first, self._width, self._high, self._norm,
                self._error[rows], _ROUNDING, counts, threads(),
            )  # fmt: skip
        total = int(counts.sum())
        values, columns = torch.empty(total), torch.empty(total, dtype=torch.int32)
        call("take_above", handle, values, columns)
        return counts, values, columns


def _joined(found: list[_Piece], rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces of latents, one after the other in each row."""
    if not found:
        return torch.empty(0), torch.empty(0, dtype=torch.int32), torch.zeros(rows + 1).long()
    counts = torch.stack([piece.counts for piece in found])
    offsets = torch.nn.functional.pad(counts.sum(0).cumsum(0), (1, 0))
    if len(found) == 1:
        return found[0].values, found[0].columns, offsets
    values = torch.empty(int(offsets[-1]))
    columns = torch.empty(len(values), dtype=torch.int32)
    before = offsets[:-1].clone()
    for piece in found:
        starts = torch.nn.functional.pad(piece.counts.cumsum(0), (1, 0))[:-1]
        shift = torch.repeat_interleave(before - starts, piece.counts)
        places = torch.arange(len(piece.values)) + shift
        values[places], columns[places] = piece.values, piece.columns
        before += piece.counts
    return values, columns, offsets
