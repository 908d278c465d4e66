"""The sparse backward pass: gradients of the rows of the weights that a batch touched.

Flow: the gradient of the reconstruction, what the encoder read, and the active latents go in;
row-sparse gradients come out. For every nonzero v of row r and latent f

    g = grad[r] . W_dec[f] (+ the gradient of v itself)
    dW_dec[f] += v grad[r],    dW_enc[f] += g x[r],    db_enc[f] += g

summed latent by latent in ascending order of rows, so that the bits repeat. No [latents, d] buffer
and no [rows, k, d] one exists: a million latents of which a batch touches a thousand cost a
thousand rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels import sparse
from bathyscope_kernels.cpu import sparse as cpu
from bathyscope_kernels.dispatch import on_gpu, sampled_dot
from bathyscope_kernels.workspace import WORKSPACE_BYTES


class RowGradients(NamedTuple):
    """Gradients of some rows of the weights; all other rows have none."""

    latents: Tensor
    """[listed] int64, ascending."""
    W_dec: Tensor
    """[listed, d_out]."""
    W_enc: Tensor
    """[listed, d_in]."""
    b_enc: Tensor
    """[listed]."""
    pre: Tensor | None
    """[rows, k] gradients of the pre-activations, zero in unused slots; None unless asked for."""


def sparse_backward(
    grad: Tensor,
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    *,
    grad_values: Tensor | None = None,
    always: Tensor | None = None,
    need_pre: bool = False,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> RowGradients:
    """Return the gradients of the latents that are active in a batch.

    grad [rows, d_out] is the gradient of the reconstruction, x [rows, d_in] what the encoder read,
    values and indices [rows, k] what it gave, W_dec [latents, d_out]; all of one floating dtype.
    `grad_values` [rows, k] is added to the gradient that the values get through the decoder.
    Latents with `always` (bool [latents]) are listed even if none of their values is above zero.
    """
    arguments = (grad, x, values, indices, W_dec, grad_values, always, need_pre, workspace_bytes)
    latents, dW_dec, dW_enc, db_enc, pre = _sparse_backward(*arguments)
    return RowGradients(latents, dW_dec, dW_enc, db_enc, pre if need_pre else None)


@torch.library.custom_op("bathyscope::sparse_backward", mutates_args=())
def _sparse_backward(
    grad: Tensor,
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    grad_values: Tensor | None,
    always: Tensor | None,
    need_pre: bool,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    found = choose(grad, x, values, indices, W_dec, grad_values, always, need_pre, workspace_bytes)
    return (*found[:4], values.new_empty(0) if found.pre is None else found.pre)


@_sparse_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    grad_values: Tensor | None,
    always: Tensor | None,
    need_pre: bool,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    listed = torch.library.get_ctx().new_dynamic_size()
    return (
        indices.new_empty(listed, dtype=torch.int64),
        grad.new_empty(listed, grad.shape[1]),
        grad.new_empty(listed, x.shape[1]),
        grad.new_empty(listed),
        values.new_empty(values.shape if need_pre else 0),
    )


def choose(
    grad: Tensor,
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    grad_values: Tensor | None,
    always: Tensor | None,
    need_pre: bool,
    workspace_bytes: int,
) -> RowGradients:
    """The gradients by the quickest path that takes the tensors."""
    grad = grad.contiguous()
    if on_gpu(grad, x, values, W_dec):
        from bathyscope_kernels.gpu import backward as gpu

        found = gpu.sparse_backward(
            grad, x, values, indices, W_dec,
            grad_values=grad_values, always=always, need_pre=need_pre,
        )  # fmt: skip
        return RowGradients(found.latents, found.W_dec, found.W_enc, found.b_enc, found.pre)
    if cpu.usable(grad, x, values, W_dec):
        lists = cpu.rows_by_latent(values, indices, W_dec.shape[0], always)
        pre = torch.zeros_like(values) if need_pre else None
        given = None if grad_values is None else grad_values.contiguous()
        dW_dec, dW_enc, db_enc = cpu.backward(grad, x, values, given, W_dec, lists, grad_pre=pre)
        return RowGradients(lists.latents, dW_dec, dW_enc, db_enc, pre)
    plain = _in_torch(grad, x, values, indices, W_dec, grad_values, always, workspace_bytes)
    return plain if need_pre else plain._replace(pre=None)


def _in_torch(
    grad: Tensor,
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    grad_values: Tensor | None,
    always: Tensor | None,
    workspace_bytes: int,
) -> RowGradients:
    listed = torch.zeros(W_dec.shape[0], dtype=torch.bool, device=W_dec.device)
    listed[indices[values != 0].to(torch.int64)] = True
    if always is not None:
        listed |= always
    latents = listed.nonzero().squeeze(1)
    position = torch.zeros(W_dec.shape[0], dtype=torch.int64, device=W_dec.device)
    position[latents] = torch.arange(latents.numel(), device=W_dec.device)
    places = position[indices.to(torch.int64)]
    pre = sampled_dot(grad, indices, matrix=W_dec, workspace_bytes=workspace_bytes)
    if grad_values is not None:
        pre = pre + grad_values
    pre = pre.masked_fill(values == 0, 0)
    dW_dec, dW_enc = (
        sparse.scatter_sum(
            coefficients,
            places,
            vectors=vectors,
            num_latents=latents.numel(),
            workspace_bytes=workspace_bytes,
            out_dtype=grad.dtype,
        )
        for coefficients, vectors in ((values, grad), (pre, x))
    )
    db_enc = pre.new_zeros(latents.numel()).index_add_(0, places.reshape(-1), pre.reshape(-1))
    return RowGradients(latents, dW_dec, dW_enc, db_enc, pre)
