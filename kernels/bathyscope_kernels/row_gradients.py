"""Gradients of the rows of W_enc and W_dec that have an entry in lists [rows, k].

With S the [rows, latents] matrix of the lists, for every latent f that has a used slot

    of_decoder:   dW_dec[f] = sum of value * grad[r],      dvalue = grad[r] . W_dec[f]
    of_encoder:   dW_enc[f] = sum of dpre * x[r],          db_enc[f] = sum of dpre

summed in ascending order of rows, so that the bits repeat. Where the lists are so wide that a
matmul is quicker (`dispatch`), every latent is listed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels import dense, sparse
from bathyscope_kernels.cpu import sparse as cpu
from bathyscope_kernels.dispatch import on_gpu, sampled_dot, use_dense
from bathyscope_kernels.workspace import WORKSPACE_BYTES


class Rows(NamedTuple):
    """Gradients of some rows of a matrix; all others have none."""

    latents: Tensor
    """[listed] int64, ascending."""
    rows: Tensor
    """[listed, d]."""
    biases: Tensor
    """[listed]: the sum of the coefficients of each latent."""


def of_decoder(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    used: Tensor,
    W_dec: Tensor,
    workspace_bytes: int,
) -> tuple[Rows, Tensor]:
    """The gradient of W_dec and that of the values [rows, k], zero where not used."""
    if use_dense(W_dec.shape[0], values.shape[1]):
        dots = sampled_dot(grad, indices, matrix=W_dec, workspace_bytes=workspace_bytes)
        everything, rows = _dense(values, indices, grad, W_dec.shape[0], workspace_bytes)
        return Rows(everything, rows, rows.new_empty(0)), dots.masked_fill_(~used, 0)
    if on_gpu(grad, values, W_dec):
        from bathyscope_kernels.gpu import row_gradients as gpu

        return gpu.of_decoder(grad, values, indices, used, W_dec)
    if cpu.usable(grad, values, W_dec):
        lists = cpu.rows_by_latent(used.to(torch.float32), indices, W_dec.shape[0])
        rows, dots = cpu.backward_of_decoder(grad, values, W_dec, lists)
        return Rows(lists.latents, rows, rows.new_empty(0)), dots
    dots = sampled_dot(grad, indices, matrix=W_dec, workspace_bytes=workspace_bytes)
    latents, places = _listed(indices, used, W_dec.shape[0])
    rows = _scatter(values.masked_fill(~used, 0), places, grad, latents.numel(), workspace_bytes)
    return Rows(latents, rows, rows.new_empty(0)), dots.masked_fill(~used, 0)


def of_encoder(
    grad_pre: Tensor,
    indices: Tensor,
    used: Tensor,
    x: Tensor,
    num_latents: int,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Rows:
    """The gradients of W_enc and b_enc; `grad_pre` [rows, k] is zero where not used."""
    if use_dense(num_latents, grad_pre.shape[1]):
        everything, rows = _dense(grad_pre, indices, x, num_latents, workspace_bytes)
        return Rows(everything, rows, _sums(grad_pre, indices.long(), num_latents))
    if on_gpu(grad_pre, x):
        from bathyscope_kernels.gpu import row_gradients as gpu

        return gpu.of_encoder(grad_pre, indices, used, x, num_latents)
    if cpu.usable(grad_pre, x):
        lists = cpu.rows_by_latent(used.to(torch.float32), indices, num_latents)
        return Rows(lists.latents, *cpu.backward_of_encoder(grad_pre, x, lists))
    latents, places = _listed(indices, used, num_latents)
    rows = _scatter(grad_pre, places, x, latents.numel(), workspace_bytes)
    return Rows(latents, rows, _sums(grad_pre, places, latents.numel()))


def _dense(
    coefficients: Tensor, indices: Tensor, vectors: Tensor, num_latents: int, workspace_bytes: int
) -> tuple[Tensor, Tensor]:
    rows = dense.scatter_sum(
        coefficients,
        indices,
        vectors=vectors,
        num_latents=num_latents,
        workspace_bytes=workspace_bytes,
        out_dtype=vectors.dtype,
    )
    return torch.arange(num_latents, device=rows.device), rows


def _sums(coefficients: Tensor, places: Tensor, listed: int) -> Tensor:
    sums = coefficients.new_zeros(listed)
    return sums.index_add_(0, places.reshape(-1), coefficients.reshape(-1))


def _listed(indices: Tensor, used: Tensor, num_latents: int) -> tuple[Tensor, Tensor]:
    """Latents with an entry, and for each slot the place of its latent among them."""
    listed = torch.zeros(num_latents, dtype=torch.bool, device=indices.device)
    listed[indices[used].to(torch.int64)] = True
    places = torch.cumsum(listed, 0).sub_(1).clamp_min_(0)
    return listed.nonzero().squeeze(1), places[indices.to(torch.int64)]


def _scatter(
    coefficients: Tensor, places: Tensor, vectors: Tensor, listed: int, workspace_bytes: int
) -> Tensor:
    return sparse.scatter_sum(
        coefficients,
        places,
        vectors=vectors,
        num_latents=listed,
        workspace_bytes=workspace_bytes,
        out_dtype=vectors.dtype,
    )
