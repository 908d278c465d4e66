"""What the dead latents make of a batch, and its gradients: AuxK inside `topk_autoencode`.

Flow: centred rows and the dead latents go in, ê comes out, and what backward needs. So many of the
dead latents are active at a time (half of d_in, of a few hundred) that their activations are best
held densely, [rows, dead], as long as those fit the workspace: every product is then one matmul.
Else they are lists as everywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels import dispatch
from bathyscope_kernels.backward import RowGradients
from bathyscope_kernels.cpu import encode as cpu
from bathyscope_kernels.encode import choose


class Aux(NamedTuple):
    """The activations of the dead latents."""

    values: Tensor
    """[rows, k_aux], or dense [rows, dead]."""
    indices: Tensor | None
    """[rows, k_aux] int32 positions among the dead; None if the values are dense."""


def encode(
    centred: Tensor, W_enc: Tensor, b_enc: Tensor, dead: Tensor, k: int, workspace_bytes: int
) -> Aux:
    """The k largest positive pre-activations of the dead latents, k at most their number."""
    dense_bytes = 4 * centred.shape[0] * dead.numel()
    is_dense = 2 * dense_bytes <= workspace_bytes and dispatch.use_dense(dead.numel(), k)
    if is_dense and not cpu.why_not(centred, W_enc, b_enc):
        scores = torch.addmm(b_enc[dead], centred, W_enc[dead].T)
        return Aux(cpu.keep_largest(scores, k), None)
    values, indices, _ = choose(centred, W_enc, b_enc, dead, k, workspace_bytes)
    return Aux(values, indices)


def decode(aux: Aux, matrix: Tensor, dead: Tensor, workspace_bytes: int) -> Tensor:
    """Return S @ matrix[dead] with S the activations."""
    if aux.indices is None:
        return aux.values @ matrix[dead]
    return dispatch.gather_sum(
        aux.values, aux.indices, matrix=matrix, subset=dead, workspace_bytes=workspace_bytes
    )


def add_gradients(
    aux: Aux,
    grad: Tensor,
    centred: Tensor,
    W_dec: Tensor,
    dead: Tensor,
    found: RowGradients,
    workspace_bytes: int,
) -> Aux:
    """Add the dead latents' gradients to their rows; return those of their pre-activations.

    `grad` [rows, d_out] is the gradient of ê; all dead latents are listed in `found`.
    """
    if aux.indices is None:
        pre = Aux((grad @ W_dec[dead].T).masked_fill_(aux.values == 0, 0), None)
        sums = aux.values.T @ grad, pre.values.T @ centred, pre.values.sum(0)
    else:
        pre, sums = _sums_of_lists(
            aux.values, aux.indices, grad, centred, W_dec[dead], workspace_bytes
        )
    places = torch.searchsorted(found.latents, dead)
    for target, sum_of in zip((found.W_dec, found.W_enc, found.b_enc), sums, strict=True):
        target.index_add_(0, places, sum_of)
    return pre


def _sums_of_lists(
    values: Tensor,
    indices: Tensor,
    grad: Tensor,
    centred: Tensor,
    W_dec: Tensor,
    workspace_bytes: int,
) -> tuple[Aux, tuple[Tensor, Tensor, Tensor]]:
    pre = dispatch.sampled_dot(grad, indices, matrix=W_dec, workspace_bytes=workspace_bytes)
    pre = pre.masked_fill_(values == 0, 0)
    dW_dec, dW_enc = (
        dispatch.scatter_sum(
            coefficients, indices, vectors=vectors, num_latents=W_dec.shape[0],
            workspace_bytes=workspace_bytes, out_dtype=grad.dtype,
        )
        for coefficients, vectors in ((values, grad), (pre, centred))
    )  # fmt: skip
    db_enc = pre.new_zeros(W_dec.shape[0])
    db_enc.index_add_(0, indices.reshape(-1).to(torch.int64), pre.reshape(-1))
    return Aux(pre, indices), (dW_dec, dW_enc, db_enc)
