"""Encode and decode on lists [rows, k], for training: gradients of weights come row by row.

Flow: `topk_lists` gives the k largest pre-activations of each row as lists; plain torch makes
values of them, as an activation function says; `decode_lists` sums decoder rows. The weights get
hybrid `torch.sparse_coo` gradients whose rows are the latents that have an entry, never a dense
[latents, d] buffer. `RowSparseAdam` reads them; torch.compile does not trace them.

An entry may have the value 0 and still take part (JumpReLU trains its threshold through a band
below it), so what is an entry is said by `used` and not by the value.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels import dispatch, row_gradients
from bathyscope_kernels.encode import check_encoder, choose
from bathyscope_kernels.ragged_backward import as_rows
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype


class RowLists(NamedTuple):
    """Pre-activations of some latents of each row, by how far they are above their floor."""

    pre: Tensor
    """[rows, k] float32, or float64 from float64; 0 in unused slots. Carries gradient."""
    indices: Tensor
    """[rows, k] int32; 0 in unused slots."""
    used: Tensor
    """[rows, k] bool: which slots are entries. They come first in a row."""

    @property
    def are_full(self) -> bool:
        """Whether some row has no slot to spare, so that it may have more entries."""
        return bool(self.used[:, -1].any())


def topk_lists(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int,
    *,
    centre: Tensor | None = None,
    floor: Tensor | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> RowLists:
    """Return the k latents of each row that are furthest above their floor, if they are.

    pre = (x - centre) @ W_enc^T + b_enc; a latent f is an entry where pre > floor[f] and, of
    those, among the k largest pre - floor. x [rows, d], W_enc [latents, d], b_enc [latents],
    centre [d] or None for zeros, floor [latents] or None for zeros: all float32, or all float64.
    Selection is that of `topk_encode`.

    Gradients flow from `pre` to x, W_enc, b_enc and centre, each only if it asks for one. That of
    W_enc is row-sparse. That of centre is -(db_enc W_enc), without a gradient of x. The floor
    has none. Raises ValueError for shapes, dtypes or devices that do not fit together, and for k
    outside 1 .. latents.
    """
    check_encoder(x, W_enc, b_enc)
    _check_dtypes(x=x, W_enc=W_enc, b_enc=b_enc, centre=centre, floor=floor)
    if centre is not None and centre.shape != x.shape[1:]:
        raise ValueError(f"got a centre {list(centre.shape)}, wanted [{x.shape[1]}]")
    if floor is not None and floor.shape != b_enc.shape:
        raise ValueError(f"got a floor {list(floor.shape)}, wanted {list(b_enc.shape)}")
    if not 1 <= k <= W_enc.shape[0]:
        raise ValueError(f"got k = {k}, wanted 1 <= k <= {W_enc.shape[0]}, the number of latents")
    return RowLists(*_Encode.apply(x, W_enc, b_enc, centre, floor, k, workspace_bytes))


def decode_lists(
    values: Tensor,
    indices: Tensor,
    used: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None = None,
    *,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Tensor:
    """Return x_hat [rows, d_out]: the sum of values * W_dec[indices] over used slots, + b_dec.

    values, indices and used [rows, k], values 0 where not used; W_dec [latents, d_out], b_dec
    [d_out]: float32, or all float64. Gradients flow to the values of used slots, also where they
    are 0, to W_dec, row-sparse, and to b_dec. Raises ValueError for shapes, dtypes or devices that
    do not fit together.
    """
    if not values.shape == indices.shape == used.shape or values.ndim != 2 or W_dec.ndim != 2:
        raise ValueError(
            f"got values {list(values.shape)}, indices {list(indices.shape)}, used "
            f"{list(used.shape)}, W_dec {list(W_dec.shape)}; wanted three lists [rows, k] and "
            "W_dec [latents, d_out]"
        )
    if b_dec is not None and b_dec.shape != W_dec.shape[1:]:
        raise ValueError(f"got b_dec {list(b_dec.shape)}, wanted [{W_dec.shape[1]}]")
    _check_dtypes(values=values, W_dec=W_dec, b_dec=b_dec)
    return _Decode.apply(values, indices, used, W_dec, b_dec, workspace_bytes)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        centre: Tensor | None,
        floor: Tensor | None,
        k: int,
        workspace_bytes: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        centred = (x if centre is None else x - centre).contiguous()
        bias = b_enc if floor is None else b_enc - floor
        pre, indices, count = choose(centred, W_enc, bias, None, k, workspace_bytes)
        used = torch.arange(k, device=count.device) < count[:, None]
        if floor is not None:
            pre = (pre + floor[indices.long()]).masked_fill_(~used, 0)
        ctx.workspace_bytes = workspace_bytes
        ctx.mark_non_differentiable(indices, used)
        ctx.save_for_backward(centred, W_enc, indices, used)
        return pre, indices, used

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        centred, W_enc, indices, used = ctx.saved_tensors
        need_x, need_W, need_b, need_centre = ctx.needs_input_grad[:4]
        grad = grad.masked_fill(~used, 0)
        dx = dW = db = dcentre = None
        if need_x:
            dx = dispatch.gather_sum(
                grad, indices, matrix=W_enc, workspace_bytes=ctx.workspace_bytes
            )
        if need_W or need_b or need_centre:
            found = row_gradients.of_encoder(grad, indices, used, centred, W_enc.shape[0])
            db = grad.new_zeros(W_enc.shape[0]).index_copy_(0, found.latents, found.biases)
            dW = as_rows(found.latents, found.rows, W_enc.shape[0]) if need_W else None
            dcentre = -torch.mv(W_enc.T, db) if need_centre else None
        return dx, dW, db if need_b else None, dcentre, None, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        indices: Tensor,
        used: Tensor,
        W_dec: Tensor,
        b_dec: Tensor | None,
        workspace_bytes: int,
    ) -> Tensor:
        values = values.contiguous()
        ctx.workspace_bytes = workspace_bytes
        ctx.save_for_backward(values, indices, used, W_dec)
        return dispatch.gather_sum(
            values, indices, matrix=W_dec, start=b_dec, workspace_bytes=workspace_bytes
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, used, W_dec = ctx.saved_tensors
        need_values, _, _, need_W, need_b = ctx.needs_input_grad[:5]
        dvalues = dW = None
        if need_values or need_W:
            found, dvalues = row_gradients.of_decoder(
                grad.contiguous(), values, indices, used, W_dec, ctx.workspace_bytes
            )
            dW = as_rows(found.latents, found.rows, W_dec.shape[0])
        return (
            dvalues if need_values else None, None, None, dW if need_W else None,
            grad.sum(0) if need_b else None, None,
        )  # fmt: skip


def _check_dtypes(**tensors: Tensor | None) -> None:
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
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
