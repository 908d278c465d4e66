"""Weighted sums of vectors over the entries of each latent: S^T vectors for a sparse S.

Flow: lists of rows by latent, a coefficient per entry and vectors [rows, d] go in; one sum [d] per
latent comes out, and with it, from the same reads, either the dot of each entry's vector with a row
of a matrix, or the sum of the coefficients.

A program sums a segment of a latent's entries for a slice of columns. It is one warp, so that a dot
needs no barrier. The grid takes all segments for one slice before the next, so that the slice of
the vectors stays in the L2 cache (512 columns of 8192 rows are 16 MiB in float32). The sums of
latents with several segments are joined afterwards, in their order. Nothing is added atomically.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope_kernels.gpu.lists import Lists
from bathyscope_kernels.gpu.runtime import Configuration, on_device, register, tl, triton

_BLOCK = 512
_UNROLL = 4


@triton.jit(do_not_specialize=["num_entries"])
def _sum_segments(  # type: ignore[no-untyped-def]
    coefficients, rows, vectors, starts, owners, partials, latents, matrix,
    out, out_partial, sums, sums_partial, dots, num_entries, d,
    DOT: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    segment = tl.program_id(0)
    piece = tl.program_id(1).to(tl.int64)
    column = piece * BLOCK + tl.arange(0, BLOCK)
    inside = column < d
    start = tl.load(starts + segment)
    stop = tl.load(starts + segment + 1)
    owner = tl.load(owners + segment).to(tl.int64)
    partial = tl.load(partials + segment).to(tl.int64)
    if DOT:
        latent = tl.load(latents + owner)
        decoder = tl.load(matrix + latent * d + column, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    total_coefficient = tl.full([], 0.0, tl.float32)
    lane = tl.arange(0, UNROLL)
    for first in range(start, stop, UNROLL):
        # Unrolled, so that several vectors are on their way at a time. Their dots are stored
        # together: a store between the loads would hold the later ones back.
        found = tl.zeros([UNROLL], tl.float32)
        for step in tl.static_range(UNROLL):
            entry = first + step
            listed = entry < stop
            row = tl.load(rows + entry, mask=listed, other=0).to(tl.int64)
            coefficient = tl.load(coefficients + entry, mask=listed, other=0.0)
            wanted = column < tl.where(listed, d, 0)
            vector = tl.load(vectors + row * d + column, mask=wanted, other=0.0)
            vector = vector.to(tl.float32)
            total += coefficient * vector
            if DOT:
                found = tl.where(lane == step, tl.sum(vector * decoder, 0), found)
            if SUM:
                total_coefficient += coefficient
        if DOT:
            to = dots + piece * num_entries + first + lane
            tl.store(to, found, mask=first + lane < stop)
    if partial < 0:
        tl.store(out + owner * d + column, total, mask=inside)
        if SUM:
            tl.store(sums + owner, total_coefficient, mask=piece == 0)
    else:
        tl.store(out_partial + partial * d + column, total, mask=inside)
        if SUM:
            tl.store(sums_partial + partial, total_coefficient, mask=piece == 0)


@triton.jit
def _join_segments(  # type: ignore[no-untyped-def]
    out_partial, sums_partial, split, split_offsets, out, sums, d,
    SUM: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    piece = tl.program_id(1).to(tl.int64)
    column = piece * BLOCK + tl.arange(0, BLOCK)
    inside = column < d
    owner = tl.load(split + number).to(tl.int64)
    stop = tl.load(split_offsets + number + 1)
    total = tl.zeros([BLOCK], tl.float32)
    total_coefficient = tl.full([], 0.0, tl.float32)
    for first in range(tl.load(split_offsets + number), stop, UNROLL):
        for step in tl.static_range(UNROLL):
            partial = tl.cast(first + step, tl.int64)
            listed = partial < stop
            wanted = column < tl.where(listed, d, 0)
            total += tl.load(out_partial + partial * d + column, mask=wanted, other=0.0)
            if SUM:
                total_coefficient += tl.load(sums_partial + partial, mask=listed, other=0.0)
    tl.store(out + owner * d + column, total, mask=inside)
    if SUM:
        tl.store(sums + owner, total_coefficient, mask=piece == 0)


class SegmentSums:
    """Weighted sums of vectors over the entries of each latent, a row for each that is listed."""

    def __init__(self, lists: Lists, latents: Tensor, dtype: torch.dtype) -> None:
        self.lists, self.latents, self.dtype = lists, latents, dtype
        self.owners, self.split = lists.segments.owners, lists.segments.split
        self.has_more = latents is not lists.latents
        if self.has_more:
            positions = torch.searchsorted(latents, lists.latents, out_int32=True)
            self.owners = positions[self.owners.long()]
            self.split = positions[self.split.long()]

    def with_dots(
        self, coefficients: Tensor, vectors: Tensor, matrix: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the sums [listed, d] and the dots vectors[row] . matrix[latent] [entries]."""
        shape = (triton.cdiv(vectors.shape[1], _BLOCK), coefficients.numel())
        dots = torch.empty(shape, dtype=torch.float32, device=vectors.device)
        out = self._run(coefficients, vectors, matrix=matrix.contiguous(), dots=dots)
        return out, dots.sum(0)

    def with_sums(self, coefficients: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums [listed, d] and the sums of the coefficients [listed]."""
        sums = self._empty()
        return self._run(coefficients, vectors, sums=sums), sums

    def _empty(self, *shape: int) -> Tensor:
        make = torch.zeros if self.has_more else torch.empty
        return make(self.latents.numel(), *shape, dtype=self.dtype, device=self.latents.device)

    def _run(
        self,
        coefficients: Tensor,
        vectors: Tensor,
        *,
        matrix: Tensor | None = None,
        dots: Tensor | None = None,
        sums: Tensor | None = None,
    ) -> Tensor:
        segments, d = self.lists.segments, vectors.shape[1]
        out = self._empty(d)
        if segments.owners.numel() == 0:
            return out
        parts = torch.empty(segments.num_partials, d, dtype=torch.float32, device=out.device)
        sum_parts = torch.empty(segments.num_partials, dtype=torch.float32, device=out.device)
        slices = triton.cdiv(d, _BLOCK)
        options = {
            "SUM": sums is not None, "BLOCK": _block(d), "UNROLL": _UNROLL, "num_warps": 1,
        }  # fmt: skip
        # What a sweep does without is never read or written; any tensor may stand there.
        sums = out if sums is None else sums
        with on_device(out):
            _sum_segments[(segments.owners.numel(), slices)](
                coefficients, self.lists.rows, vectors.contiguous(), segments.starts,
                self.owners, segments.partials, self.latents,
                vectors if matrix is None else matrix, out, parts, sums, sum_parts,
                parts if dots is None else dots, coefficients.numel(), d,
                DOT=dots is not None, **options,
            )  # fmt: skip
            if segments.num_partials > 0:
                _join_segments[(self.split.numel(), slices)](
                    parts, sum_parts, self.split, segments.split_offsets, out, sums, d, **options
                )
        return out


def _block(d: int) -> int:
    return int(min(_BLOCK, max(32, triton.next_power_of_2(d))))


def _configuration(vectors: str, out: str, *, dot: bool) -> Configuration:
    return Configuration(
        signature={
            "coefficients": "*fp32:16", "rows": "*i32:16", "vectors": f"*{vectors}:16",
            "starts": "*i32:16", "owners": "*i32:16", "partials": "*i32:16",
            "latents": "*i64:16", "matrix": f"*{vectors}:16", "out": f"*{out}:16",
            "out_partial": "*fp32:16", "sums": f"*{out}:16", "sums_partial": "*fp32:16",
            "dots": "*fp32:16", "num_entries": "i32", "d": "i32:16",
        },
        constexprs={"DOT": dot, "SUM": not dot, "BLOCK": _BLOCK, "UNROLL": _UNROLL},
        num_warps=1,
    )  # fmt: skip


register(
    "sum_segments",
    _sum_segments,
    [
        _configuration(vectors, out, dot=dot)
        for vectors, out in (("bf16", "bf16"), ("bf16", "fp32"), ("fp32", "fp32"))
        for dot in (True, False)
    ],
)
register(
    "join_segments",
    _join_segments,
    [
        Configuration(
            signature={
                "out_partial": "*fp32:16", "sums_partial": "*fp32:16", "split": "*i32:16",
                "split_offsets": "*i32:16", "out": f"*{out}:16", "sums": f"*{out}:16",
                "d": "i32:16",
            },
            constexprs={"SUM": with_sum, "BLOCK": _BLOCK, "UNROLL": _UNROLL},
            num_warps=1,
        )
        for out, with_sum in (("bf16", True), ("fp32", True), ("fp32", False))
    ],
)  # fmt: skip
