"""Ragged decode: each row is a weighted sum of as many decoder rows as it has entries.

Flow: the values, indices and offsets of a BatchTopK or JumpReLU encode and the decoder
[latents, d_out] go in, the reconstruction [rows, d_out] comes out. With S the [rows, latents]
matrix of the values

    x_hat = S W_dec + b_dec,    d values = grad[row] . W_dec[latent],    d W_dec = S^T grad
"""

from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels import row_gradients
from bathyscope_kernels.ragged import Ragged
from bathyscope_kernels.ragged_backward import as_rows
from bathyscope_kernels.ragged_products import by_latent, gather_sum, sampled_dot, scatter_sum
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype


def ragged_decode(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None = None,
    *,
    row_sparse: bool = False,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Tensor:
    """Return x_hat [rows, d_out]: the sum of values * W_dec[indices] over a row's entries, + b_dec.

    values [nnz], W_dec [latents, d_out] and b_dec [d_out] are float32, bfloat16 or float16 in any
    mix, accumulated and returned in float32; or all float64. indices [nnz] is int32 or int64;
    the entries of row r are offsets[r] to offsets[r + 1], with offsets [rows + 1] int64. An index
    that comes twice in a row counts twice, and a row without entries is b_dec.

    Gradients flow to values, W_dec and b_dec, each only if it asks for one. Every entry has one,
    also where its value is 0: so the lower half of JumpReLU's band is trained. With `row_sparse`
    the gradient of W_dec is a coalesced torch.sparse_coo tensor of the latents that have an entry;
    torch.compile cannot trace it, so it is computed outside of the custom operation.

    At most `workspace_bytes` of temporaries are alive at a time, beside lists of nnz entries.
    Raises ValueError for shapes, dtypes or devices that do not fit together, for an index outside
    0 .. latents - 1 and for offsets that do not ascend from 0 to nnz.
    """
    _check(values, indices, offsets, W_dec, b_dec)
    decode = _RowSparse.apply if row_sparse else _decode
    return decode(values, indices, offsets, W_dec, b_dec, workspace_bytes)


@torch.library.custom_op("bathyscope::ragged_decode", mutates_args=())
def _decode(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None,
    workspace_bytes: int,
) -> Tensor:
    return _sum_rows(values, indices, offsets, W_dec, b_dec, workspace_bytes)


@_decode.register_fake
def _(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None,
    workspace_bytes: int,
) -> Tensor:
    dtype = accumulate_dtype(values=values, W_dec=W_dec)
    return W_dec.new_empty(offsets.shape[0] - 1, W_dec.shape[1], dtype=dtype)


@torch.library.custom_op("bathyscope::ragged_decode_backward", mutates_args=())
def _decode_backward(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    W_dec: Tensor,
    wanted: list[bool],
    workspace_bytes: int,
) -> list[Tensor]:
    return _gradients(grad, values, indices, offsets, W_dec, wanted, workspace_bytes)


@_decode_backward.register_fake
def _(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    W_dec: Tensor,
    wanted: list[bool],
    workspace_bytes: int,
) -> list[Tensor]:
    inputs = (values, W_dec)
    return [t.new_empty(t.shape) for t, want in zip(inputs, wanted, strict=True) if want]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, b_dec, ctx.workspace_bytes = inputs
    ctx.save_for_backward(*tensors)
    ctx.b_dec_dtype = None if b_dec is None else b_dec.dtype


def _backward(ctx: Any, grad: Tensor, *, row_sparse: bool = False) -> tuple[Tensor | None, ...]:
    wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[3]]
    arguments = (grad, *ctx.saved_tensors, wanted, ctx.workspace_bytes)
    if row_sparse:
        found = iter(_gradients(*arguments, row_sparse=True))
    else:
        found = iter(_decode_backward(*arguments))
    grad_values = next(found) if wanted[0] else None
    grad_W = next(found) if wanted[1] else None
    grad_b = grad.sum(0).to(ctx.b_dec_dtype) if ctx.needs_input_grad[4] else None
    return grad_values, None, None, grad_W, grad_b, None


_decode.register_autograd(_backward, setup_context=_keep_for_backward)


class _RowSparse(torch.autograd.Function):
    """The same outside of a custom operation: a traced one cannot have a sparse gradient."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return _sum_rows(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _keep_for_backward(ctx, inputs, output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad, row_sparse=True)


def _sum_rows(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None,
    workspace_bytes: int,
) -> Tensor:
    _check_data(indices, offsets, W_dec)
    dtype = accumulate_dtype(values=values, W_dec=W_dec)
    if values.dtype == W_dec.dtype == dtype and (b_dec is None or b_dec.dtype == dtype):
        entries = Ragged(values.contiguous(), indices, offsets)
        return row_gradients.decode(entries, W_dec, b_dec, workspace_bytes)
    x_hat = gather_sum(
        values.to(dtype).contiguous(),
        indices,
        offsets,
        matrix=W_dec,
        workspace_bytes=workspace_bytes,
    )
    return x_hat if b_dec is None else x_hat.add_(b_dec)


def _gradients(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    W_dec: Tensor,
    wanted: list[bool],
    workspace_bytes: int,
    *,
    row_sparse: bool = False,
) -> list[Tensor]:
    # The gradient of a plain sum is one number with stride 0, which a gather cannot walk.
    grad = grad.contiguous()
    found = []
    if row_sparse and all(wanted) and values.dtype == W_dec.dtype == grad.dtype:
        rows, dots = row_gradients.of_decoder(
            grad, Ragged(values.contiguous(), indices, offsets), W_dec, workspace_bytes
        )
        return [dots, as_rows(rows.latents, rows.rows, W_dec.shape[0])]
    if wanted[0]:
        dots = sampled_dot(grad, indices, offsets, matrix=W_dec, workspace_bytes=workspace_bytes)
        found.append(dots.to(values.dtype))
    if wanted[1]:
        num_latents = W_dec.shape[0]
        lists = by_latent(indices, offsets, num_latents=num_latents, only_present=row_sparse)
        dW = scatter_sum(
            values.to(grad.dtype),
            lists,
            vectors=grad,
            workspace_bytes=workspace_bytes,
            out_dtype=W_dec.dtype,
        )
        found.append(as_rows(lists.latents, dW, num_latents))
    return found


def _check(
    values: Tensor, indices: Tensor, offsets: Tensor, W_dec: Tensor, b_dec: Tensor | None
) -> None:
    lists = values.ndim == 1 and values.shape == indices.shape
    if not lists or offsets.ndim != 1 or offsets.shape[0] < 1 or W_dec.ndim != 2:
        raise ValueError(
            f"got values {list(values.shape)}, indices {list(indices.shape)}, offsets "
            f"{list(offsets.shape)}, W_dec {list(W_dec.shape)}; wanted values and indices [nnz], "
            "offsets [rows + 1], W_dec [latents, d_out]"
        )
    if b_dec is not None and b_dec.shape != W_dec.shape[1:]:
        raise ValueError(
            f"got b_dec {list(b_dec.shape)} with W_dec {list(W_dec.shape)}; wanted b_dec "
            f"[{W_dec.shape[1]}]; rows of W_dec are latents, transpose it if they are not"
        )
    if indices.dtype not in (torch.int32, torch.int64) or offsets.dtype != torch.int64:
        raise ValueError(
            f"got indices of {indices.dtype}, offsets of {offsets.dtype}; wanted torch.int32 or "
            "torch.int64 indices and torch.int64 offsets"
        )
    tensors = {"values": values, "W_dec": W_dec}
    if b_dec is not None:
        tensors["b_dec"] = b_dec
    accumulate_dtype(**tensors)
    devices = {tensor.device for tensor in (indices, offsets, *tensors.values())}
    if len(devices) > 1:
        raise ValueError(f"got tensors on {sorted(map(str, devices))}, wanted one device")


def _check_data(indices: Tensor, offsets: Tensor, W_dec: Tensor) -> None:
    """Raise for numbers out of range: part of the operation, as it reads the data."""
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != indices.numel() or bool((offsets.diff() < 0).any()):
        raise ValueError(
            f"got offsets from {first} to {last}, wanted them to ascend from 0 to "
            f"{indices.numel()}, the number of entries; for some rows of a Ragged take `rows`"
        )
    if indices.numel() == 0:
        return
    smallest, largest = (int(end) for end in torch.aminmax(indices))
    if smallest < 0 or largest >= W_dec.shape[0]:
        raise ValueError(
            f"got indices from {smallest} to {largest}, wanted 0 to {W_dec.shape[0] - 1}, the "
            "rows of W_dec; were they made with another dictionary?"
        )
