"""Encode for training: entries of each row as CSR, with gradients of weights row by row.

Flow: rows and the encoder go in, the pre-activations that count come out as a `Ragged`; plain torch
makes values of them, as an activation function says, and `ragged_decode` with `row_sparse` sums
decoder rows. The gradient of W_enc is a hybrid `torch.sparse_coo` tensor whose rows are the latents
that have an entry, never a dense [latents, d] buffer. `RowSparseAdam` reads it; torch.compile does
not trace it.

An entry may get the value 0 and still take part: JumpReLU trains its threshold through a band
below it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels import row_gradients
from bathyscope_kernels.cpu import encode as cpu_encode
from bathyscope_kernels.cpu.above import TooManyEntries, encode_above
from bathyscope_kernels.dispatch import on_gpu
from bathyscope_kernels.encode import check_encoder, choose
from bathyscope_kernels.ragged import Ragged, from_positions
from bathyscope_kernels.ragged_backward import as_rows
from bathyscope_kernels.ragged_products import gather_sum
from bathyscope_kernels.score_blocks import Block, collect
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype

Select = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Centred rows -> values, indices and offsets of the entries."""


def topk_rows(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int,
    *,
    centre: Tensor | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Ragged:
    """Return the k largest positive pre-activations of each row, those of `topk_encode`.

    The largest comes first in a row. Arguments, gradients and errors are those of `rows_above`, and
    ValueError for k outside 1 .. latents.
    """
    _check(x, W_enc, b_enc, centre, None)
    if not 1 <= k <= W_enc.shape[0]:
        raise ValueError(f"got k = {k}, wanted 1 <= k <= {W_enc.shape[0]}, the number of latents")

    def select(centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, indices, count = choose(
            centred, W_enc.detach(), b_enc.detach(), None, k, workspace_bytes
        )
        used = torch.arange(k, device=count.device) < count[:, None]
        offsets = torch.nn.functional.pad(count.cumsum(0, dtype=torch.int64), (1, 0))
        return values[used], indices[used], offsets

    return Ragged(*_Encode.apply(x, W_enc, b_enc, centre, select, workspace_bytes))


def rows_above(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    floor: Tensor | None = None,
    *,
    centre: Tensor | None = None,
    most_entries: int | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Ragged:
    """Return every pre-activation above the floor of its latent, ascending by latent in a row.

    pre = (x - centre) @ W_enc^T + b_enc, kept where pre > floor, NaN always. x [rows, d], W_enc
    [latents, d], b_enc [latents], floor [latents] or None for zeros, centre [d] or None for zeros:
    all float32, or all float64.

    Gradients flow from the values to x, W_enc, b_enc and centre, each only if it asks for one. That
    of W_enc is row-sparse; that of centre is -(db_enc W_enc), without a gradient of x. The floor
    has none. Raises ValueError for shapes, dtypes or devices that do not fit together, and
    `TooManyEntries`, one of them, for more than `most_entries`.
    """
    _check(x, W_enc, b_enc, centre, floor)

    def select(centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tensors = (W_enc.detach(), b_enc.detach(), None if floor is None else floor.detach())
        return _above(centred, *tensors, most_entries, workspace_bytes)

    return Ragged(*_Encode.apply(x, W_enc, b_enc, centre, select, workspace_bytes))


def _above(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    floor: Tensor | None,
    most_entries: int | None,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    limit = torch.zeros_like(b_enc) if floor is None else floor
    if on_gpu(x, W_enc, b_enc, limit):
        from bathyscope_kernels.gpu import threshold as gpu

        values, indices, offsets, _ = gpu.threshold_encode(
            x, W_enc, b_enc, limit, bandwidth=0.0, workspace_bytes=workspace_bytes
        )
    elif x.dtype == torch.float32 and not cpu_encode.why_not(x, W_enc, b_enc):
        return encode_above(
            x.contiguous(),
            W_enc,
            b_enc.contiguous(),
            None if floor is None else floor.contiguous(),
            workspace_bytes=workspace_bytes,
            most_entries=most_entries,
        )
    else:

        def keep(block: Block) -> Tensor:
            return (block.scores <= limit[block.columns]).logical_not_()

        kept, positions = collect(x, W_enc, b_enc, keep, workspace_bytes=workspace_bytes)
        values, indices, offsets = from_positions(
            kept, positions, num_rows=x.shape[0], num_columns=W_enc.shape[0]
        )
    if most_entries is not None and values.numel() > most_entries:
        raise TooManyEntries(
            f"{values.numel()} pre-activations of {x.shape[0]} rows are above their floor, more "
            f"than {most_entries}"
        )
    return values, indices, offsets


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        centre: Tensor | None,
        select: Select,
        workspace_bytes: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        centred = (x if centre is None else x - centre).contiguous()
        values, indices, offsets = select(centred)
        ctx.workspace_bytes = workspace_bytes
        ctx.mark_non_differentiable(indices, offsets)
        ctx.save_for_backward(centred, W_enc, indices, offsets)
        return values, indices, offsets

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        centred, W_enc, indices, offsets = ctx.saved_tensors
        need_x, need_W, need_b, need_centre = ctx.needs_input_grad[:4]
        entries = Ragged(grad.contiguous(), indices, offsets)
        dx = dW = db = dcentre = None
        if need_x:
            dx = gather_sum(*entries, matrix=W_enc, workspace_bytes=ctx.workspace_bytes)
        if need_W or need_b or need_centre:
            latents = W_enc.shape[0]
            found = row_gradients.of_encoder(entries, centred, latents, ctx.workspace_bytes)
            db = grad.new_zeros(latents).index_copy_(0, found.latents, found.biases)
            dW = as_rows(found.latents, found.rows, latents) if need_W else None
            dcentre = -torch.mv(W_enc.T, db) if need_centre else None
        return dx, dW, db if need_b else None, dcentre, None, None


def _check(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None, floor: Tensor | None
) -> None:
    check_encoder(x, W_enc, b_enc)
    if centre is not None and centre.shape != x.shape[1:]:
        raise ValueError(f"got a centre {list(centre.shape)}, wanted [{x.shape[1]}]")
    if floor is not None and floor.shape != b_enc.shape:
        raise ValueError(f"got a floor {list(floor.shape)}, wanted {list(b_enc.shape)}")
    given = {"x": x, "W_enc": W_enc, "b_enc": b_enc}
    given |= {n: t for n, t in (("centre", centre), ("floor", floor)) if t is not None}
    dtypes = {tensor.dtype for tensor in given.values()}
    if len(dtypes) > 1 or accumulate_dtype(**given) not in dtypes:
        got = ", ".join(f"{name} {tensor.dtype}" for name, tensor in given.items())
        raise ValueError(
            f"got {got}; wanted float32 or float64 for all: weights that are trained in less lose "
            "small updates; convert with .float()"
        )
    devices = {tensor.device for tensor in given.values()}
    if len(devices) > 1:
        raise ValueError(f"got tensors on {sorted(map(str, devices))}, wanted one device")
