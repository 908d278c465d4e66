"""Sparse decode: each row is a weighted sum of k decoder rows, with a sparse backward.

Flow: values and indices [rows, k] of an encode and the decoder [latents, d_out] go in, the
reconstruction [rows, d_out] comes out.
"""

from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels.dispatch import gather_sum, on_gpu, sampled_dot, scatter_sum
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
    return _decode(values, indices, W_dec, b_dec, workspace_bytes)


@torch.no_grad()
def decode_residual(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None,
    target: Tensor,
    *,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> tuple[Tensor, Tensor]:
    """Return target - x_hat [rows, d_out] and the sum of its squares per row [rows].

    x_hat is that of `sparse_decode`, whose arguments and errors these are; `target` [rows, d_out]
    too may be of any dtype that fits. On a GPU this saves a pass over the reconstruction. No
    gradient flows.
    """
    _check_decoder(values, indices, W_dec, b_dec)
    if target.shape != (values.shape[0], W_dec.shape[1]):
        raise ValueError(
            f"got a target {list(target.shape)}, wanted [{values.shape[0]}, {W_dec.shape[1]}]: a "
            "row for each row of values, of the width of W_dec"
        )
    accumulate_dtype(values=values, W_dec=W_dec, target=target)
    if on_gpu(values, W_dec, b_dec, target):
        from bathyscope_kernels.gpu import decode as gpu

        _check_range(indices, W_dec)
        return gpu.decode_residual(values, indices, W_dec, b_dec, target)
    residual = _decode(values, indices, W_dec, b_dec, workspace_bytes)
    residual = residual.neg_().add_(target)
    return residual, residual.square().sum(1)


@torch.library.custom_op("bathyscope::sparse_decode", mutates_args=())
def _decode(
    values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor | None, workspace_bytes: int
) -> Tensor:
    _check_range(indices, W_dec)
    dtype = accumulate_dtype(values=values, W_dec=W_dec)
    if values.numel() == 0:
        x_hat = W_dec.new_zeros(values.shape[0], W_dec.shape[1], dtype=dtype)
        return x_hat if b_dec is None else x_hat.add_(b_dec)
    return gather_sum(
        values.to(dtype).contiguous(),
        indices,
        matrix=W_dec,
        start=b_dec,
        workspace_bytes=workspace_bytes,
    )


@_decode.register_fake
def _(
    values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor | None, workspace_bytes: int
) -> Tensor:
    dtype = accumulate_dtype(values=values, W_dec=W_dec)
    return W_dec.new_empty(values.shape[0], W_dec.shape[1], dtype=dtype)


@torch.library.custom_op("bathyscope::sparse_decode_backward", mutates_args=())
def _decode_backward(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    wanted: list[bool],
    workspace_bytes: int,
) -> list[Tensor]:
    # The gradient of a plain sum is one number with stride 0, which BLAS cannot walk.
    grad = grad.contiguous()
    found = []
    if wanted[0]:
        dots = sampled_dot(grad, indices, matrix=W_dec, workspace_bytes=workspace_bytes)
        found.append(dots.to(values.dtype))
    if wanted[1]:
        dW = scatter_sum(
            values.to(grad.dtype),
            indices,
            vectors=grad,
            num_latents=W_dec.shape[0],
            workspace_bytes=workspace_bytes,
            out_dtype=W_dec.dtype,
        )
        found.append(dW)
    return found


@_decode_backward.register_fake
def _(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    wanted: list[bool],
    workspace_bytes: int,
) -> list[Tensor]:
    inputs = (values, W_dec)
    return [t.new_empty(t.shape) for t, want in zip(inputs, wanted, strict=True) if want]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, indices, W_dec, b_dec, ctx.workspace_bytes = inputs
    ctx.save_for_backward(values, indices, W_dec)
    ctx.b_dec_dtype = None if b_dec is None else b_dec.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[2]]
    found = iter(_decode_backward(grad, *ctx.saved_tensors, wanted, ctx.workspace_bytes))
    grad_values = next(found) if wanted[0] else None
    grad_W = next(found) if wanted[1] else None
    grad_b = grad.sum(0).to(ctx.b_dec_dtype) if ctx.needs_input_grad[3] else None
    return grad_values, None, grad_W, grad_b, None


_decode.register_autograd(_backward, setup_context=_keep_for_backward)


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


def _check_range(indices: Tensor, W_dec: Tensor) -> None:
    """Raise for an index that is no row of W_dec: part of the operation, as it reads the data."""
    if indices.numel() > 0:
        smallest, largest = (int(end) for end in torch.aminmax(indices))
        if smallest < 0 or largest >= W_dec.shape[0]:
            raise ValueError(
                f"got indices from {smallest} to {largest}, wanted 0 to {W_dec.shape[0] - 1}, the "
                "rows of W_dec; were they made with another dictionary?"
            )
