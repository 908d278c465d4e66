"""Sparse decode: each row is a weighted sum of k decoder rows, with a sparse backward.

Flow: values and indices [rows, k] of an encode and the decoder [latents, d_out] go in, the
reconstruction [rows, d_out] comes out.
"""

from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels.dispatch import gather_sum, sampled_dot, scatter_sum
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype


def sparse_decode(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None = None,
    *,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Tensor:
    """Return x_hat [rows, d_out]: x_hat[r] = sum_j values[r, j] * W_dec[indices[r, j]] + b_dec.

    values [rows, k], W_dec [latents, d_out] and b_dec [d_out] are float32, bfloat16 or float16 in
    any mix, accumulated and returned in float32; or all float64. indices [rows, k] is int32 or
    int64; an index that comes twice in a row counts twice.

    Gradients flow to values, W_dec and b_dec, each only if it asks for one. Whether the sums are
    gathered or done by matmul depends on latents / k alone (`dispatch`), never on the values.

    At most `workspace_bytes` of temporaries are alive at a time, beside lists of rows * k
    entries. Raises ValueError for shapes, dtypes or devices that do not fit together and for
    an index outside 0 .. latents - 1.
    """
    _check_decoder(values, indices, W_dec, b_dec)
    return _Decode.apply(values, indices, W_dec, b_dec, workspace_bytes)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        indices: Tensor,
        W_dec: Tensor,
        b_dec: Tensor | None,
        workspace_bytes: int,
    ) -> Tensor:
        dtype = accumulate_dtype(values=values, W_dec=W_dec)
        ctx.save_for_backward(values, indices, W_dec)
        ctx.b_dec_dtype = None if b_dec is None else b_dec.dtype
        ctx.workspace_bytes = workspace_bytes
        if values.numel() == 0:
            x_hat = W_dec.new_zeros(values.shape[0], W_dec.shape[1], dtype=dtype)
        else:
            x_hat = gather_sum(
                values.to(dtype), indices, matrix=W_dec, workspace_bytes=workspace_bytes
            )
        return x_hat if b_dec is None else x_hat.add_(b_dec)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, W_dec = ctx.saved_tensors
        # The gradient of a plain sum is one number with stride 0, which BLAS cannot walk.
        grad = grad.contiguous()
        grad_values, grad_W, grad_b = None, None, None
        if ctx.needs_input_grad[0]:
            dots = sampled_dot(grad, indices, matrix=W_dec, workspace_bytes=ctx.workspace_bytes)
            grad_values = dots.to(values.dtype)
        if ctx.needs_input_grad[2]:
            grad_W = scatter_sum(
                values.to(grad.dtype),
                indices,
                vectors=grad,
                num_latents=W_dec.shape[0],
                workspace_bytes=ctx.workspace_bytes,
                out_dtype=W_dec.dtype,
            )
        if ctx.needs_input_grad[3]:
            grad_b = grad.sum(0).to(ctx.b_dec_dtype)
        return grad_values, None, grad_W, grad_b, None


def _check_decoder(values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor | None) -> None:
    if values.ndim != 2 or values.shape != indices.shape or W_dec.ndim != 2:
        raise ValueError(
            f"got values {list(values.shape)}, indices {list(indices.shape)}, W_dec "
            f"{list(W_dec.shape)}; wanted values and indices [rows, k], W_dec [latents, d_out]"
        )
    if b_dec is not None and b_dec.shape != W_dec.shape[1:]:
        raise ValueError(
            f"got b_dec {list(b_dec.shape)} with W_dec {list(W_dec.shape)}; wanted b_dec "
            f"[{W_dec.shape[1]}]; rows of W_dec are latents, transpose it if they are not"
        )
    if indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"got indices of {indices.dtype}, wanted torch.int32 or torch.int64")
    tensors = {"values": values, "W_dec": W_dec}
    if b_dec is not None:
        tensors["b_dec"] = b_dec
    accumulate_dtype(**tensors)
    devices = {tensor.device for tensor in (indices, *tensors.values())}
    if len(devices) > 1:
        raise ValueError(f"got tensors on {sorted(map(str, devices))}, wanted one device")
    if indices.numel() > 0:
        smallest, largest = (int(end) for end in torch.aminmax(indices))
        if smallest < 0 or largest >= W_dec.shape[0]:
            raise ValueError(
                f"got indices from {smallest} to {largest}, wanted 0 to {W_dec.shape[0] - 1}, the "
                "rows of W_dec; were they made with another dictionary?"
            )
