"""The sparse backward pass in two sweeps over the lists of rows by latent.

Flow: the gradient of the reconstruction, what the encoder read, and values and indices of an encode
go in; gradients of the rows of the weights that were active come out. For each nonzero v of row r
and latent f

    g = grad[r] . W_dec[f] (+ the gradient of v itself)
    dW_dec[f] += v grad[r],    dW_enc[f] += g x[r],    db_enc[f] += g

The first sweep over the lists of rows by latent reads grad[r] once per entry, for dW_dec and for g
together; the second one reads x[r]. `segment_sums` says how. Nothing is added atomically, so the
same inputs give the same bits, and neither a [rows, k, d] nor a [latents, d] exists.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.gpu.decode import sparse_decode
from bathyscope_kernels.gpu.lists import rows_by_latent, segment_length
from bathyscope_kernels.gpu.runtime import check_device
from bathyscope_kernels.gpu.segment_sums import SegmentSums
from bathyscope_kernels.workspace import accumulate_dtype


class Backward(NamedTuple):
    """Gradients of some rows of the weights; all other rows have none."""

    latents: Tensor
    """[n] int64, ascending."""
    W_dec: Tensor
    """[n, d_out]."""
    W_enc: Tensor
    """[n, d_in]."""
    b_enc: Tensor
    """[n]."""
    pre: Tensor | None
    """[rows, k] float32 gradients of the pre-activations, 0 in unused slots; if asked for."""
    dx: Tensor | None
    """[rows, d_in] float32; if asked for."""


@torch.no_grad()
def sparse_backward(
    grad_x_hat: Tensor,
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    *,
    grad_values: Tensor | None = None,
    always: Tensor | None = None,
    need_pre: bool = False,
    need_dx: bool = False,
    W_enc: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Backward:
    """Return the gradients of the latents that are active in a batch.

    grad_x_hat [rows, d_out] is the gradient of the reconstruction, x [rows, d_in] what the encoder
    read, values and indices [rows, k] what it gave, W_dec [latents, d_out]; float32, bfloat16 or
    float16 in any mix on one CUDA device. `grad_values` [rows, k] is added to the gradient that the
    values get through the decoder. Every nonzero value counts as active, NaN among them. Latents
    with `always` (bool [latents]) are listed even where none is.

    With `need_dx`, dx[r] = sum_j g[r, j] * W_enc[indices[r, j]] is returned, for which W_enc
    [latents, d_in] is needed. The rows of gradients are in `out_dtype`, that of W_dec by default,
    summed in float32.

    Temporaries are lists of rows * k entries, one float32 per entry and slice of 512 columns, and
    at most 64 MiB of partial sums. Waits for the device once for the number of latents, and once
    more with `always`. The range of the indices is the caller's matter. Raises ValueError for
    shapes, dtypes or devices that do not fit together.
    """
    _check(grad_x_hat, x, values, indices, W_dec, grad_values, always, W_enc, need_dx)
    num_latents = W_dec.shape[0]
    length = segment_length(values.numel(), max(W_dec.shape[1], x.shape[1]))
    lists = rows_by_latent(values, indices, num_latents, length=length)
    latents = lists.latents
    if always is not None:
        listed = always.clone()
        listed[latents] = True
        latents = listed.nonzero().squeeze(1)
    sweep = SegmentSums(lists, latents, W_dec.dtype if out_dtype is None else out_dtype)
    dW_dec, g = sweep.with_dots(lists.coefficients, grad_x_hat, W_dec)
    if grad_values is not None:
        g += grad_values.reshape(-1)[lists.places]
    dW_enc, db_enc = sweep.with_sums(g, x)
    pre = dx = None
    if need_pre or need_dx:
        pre = torch.zeros(values.shape, dtype=torch.float32, device=values.device)
        pre.view(-1)[lists.places] = g
    if need_dx:
        assert pre is not None
        assert W_enc is not None
        dx = sparse_decode(pre, indices, W_enc)
    return Backward(latents, dW_dec, dW_enc, db_enc, pre, dx)


def _check(
    grad: Tensor,
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    grad_values: Tensor | None,
    always: Tensor | None,
    W_enc: Tensor | None,
    need_dx: bool,
) -> None:
    rows, given = len(values), {"grad_x_hat": grad, "x": x, "values": values, "W_dec": W_dec}
    if any(tensor.ndim != 2 for tensor in (*given.values(), indices)) or not (
        values.shape == indices.shape and len(grad) == len(x) == rows
    ):
        got = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in given.items())
        raise ValueError(
            f"got {got}, indices {list(indices.shape)}; wanted values and indices [rows, k], "
            "grad_x_hat [rows, d_out], x [rows, d_in], W_dec [latents, d_out]"
        )
    wanted = {"grad_x_hat": (grad, [rows, W_dec.shape[1]])}
    if grad_values is not None:
        wanted["grad_values"] = (grad_values, list(values.shape))
    if need_dx:
        if W_enc is None:
            raise ValueError("got need_dx without W_enc, wanted W_enc [latents, d_in] with it")
        wanted["W_enc"] = (W_enc, [W_dec.shape[0], x.shape[1]])
    for name, (tensor, shape) in wanted.items():
        if list(tensor.shape) != shape:
            raise ValueError(
                f"got {name} {list(tensor.shape)}, wanted {shape}; rows of W_enc and W_dec are "
                "latents, transpose them if they are not"
            )
        given[name] = tensor
    if always is not None and (always.dtype != torch.bool or always.shape != W_dec.shape[:1]):
        raise ValueError(
            f"got always {list(always.shape)} of {always.dtype}, wanted [{W_dec.shape[0]}] of "
            "torch.bool"
        )
    if indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"got indices of {indices.dtype}, wanted torch.int32 or torch.int64")
    if accumulate_dtype(**given) != torch.float32:
        raise ValueError(
            "got float64, wanted float32, bfloat16 or float16: the GPU kernels sum in float32; "
            "use the function of the same name in bathyscope_kernels"
        )
    check_device(indices, *given.values(), *(() if always is None else (always,)))
