"""TopK encode and decode as one operation, for training: the backward pass goes once over latents.

Flow: rows and weights go in; the reconstruction and the active latents come out, and with them
the reconstruction of the error by dead latents (AuxK). Backward gives the weights row-sparse
gradients: hybrid `torch.sparse_coo` tensors whose rows are the latents that were active, never a
dense [latents, d] buffer. `RowSparseAdam` reads them; torch's own optimisers mostly do not, and
torch.compile does not trace sparse gradients: `topk_encode` and `sparse_decode` are for that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels import auxk_products, dispatch
from bathyscope_kernels.backward import RowGradients, sparse_backward
from bathyscope_kernels.encode import Encoded, check_encoder, choose
from bathyscope_kernels.ragged_backward import as_rows
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype


class Autoencoded(NamedTuple):
    """What `topk_autoencode` returns; `values`, `x_hat` and `error_hat` carry gradient."""

    x_hat: Tensor
    """[rows, d_in], with b_dec."""
    latents: Encoded
    """The active latents, as `topk_encode` gives them."""
    error_hat: Tensor | None
    """[rows, d_in], what the dead latents make of the rows, without b_dec; None without dead."""


class _Saved(NamedTuple):
    centred: Tensor
    values: Tensor
    indices: Tensor
    aux_values: Tensor | None
    aux_indices: Tensor | None
    dead: Tensor | None
    W_enc: Tensor
    W_dec: Tensor


def topk_autoencode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    k: int,
    *,
    dead: Tensor | None = None,
    k_aux: int = 0,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Autoencoded:
    """Return x_hat = W_dec^T z + b_dec with z the k largest of relu(W_enc (x - b_dec) + b_enc).

    x [rows, d], W_enc and W_dec [latents, d], b_enc [latents], b_dec [d]: float32, or all float64.
    `dead` (int64, ascending) are latents whose `k_aux` largest pre-activations per row make
    `error_hat` (Gao et al. 2024, arXiv:2406.04093, appendix A.2).

    Gradients reach everything that asks for one. Those of W_enc and W_dec are row-sparse; the one
    of b_dec holds its share through the encoder, -(db_enc W_enc), without a gradient of x.
    Raises ValueError for shapes, dtypes or devices that do not fit together.
    """
    check_encoder(x, W_enc, b_enc)
    if W_dec.shape != W_enc.shape or b_dec.shape != x.shape[1:]:
        raise ValueError(
            f"got W_enc {list(W_enc.shape)}, W_dec {list(W_dec.shape)}, b_dec "
            f"{list(b_dec.shape)}; wanted W_dec like W_enc and b_dec [{x.shape[1]}]; rows of both "
            "matrices are latents"
        )
    dtypes = {t.dtype for t in (x, W_enc, b_enc, W_dec, b_dec)}
    if len(dtypes) > 1 or accumulate_dtype(x=x) not in dtypes:
        raise ValueError(
            f"got dtypes {sorted(map(str, dtypes))}, wanted float32 or float64 for all: weights "
            "that are trained in less lose small updates; convert with .float()"
        )
    if not 1 <= k <= W_enc.shape[0]:
        raise ValueError(f"got k = {k}, wanted 1 <= k <= {W_enc.shape[0]}, the number of latents")
    if dead is not None and (dead.numel() == 0 or k_aux < 1):
        dead = None
    x_hat, values, indices, count, error_hat = _Autoencode.apply(
        x, W_enc, b_enc, W_dec, b_dec, k, dead, k_aux, workspace_bytes
    )
    return Autoencoded(x_hat, Encoded(values, indices, count), error_hat)


class _Autoencode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        k: int,
        dead: Tensor | None,
        k_aux: int,
        workspace_bytes: int,
    ) -> tuple[Tensor | None, ...]:
        centred = x - b_dec
        values, indices, count = choose(centred, W_enc, b_enc, None, k, workspace_bytes)
        x_hat = dispatch.gather_sum(
            values, indices, matrix=W_dec, start=b_dec, workspace_bytes=workspace_bytes
        )
        aux_values, aux_indices, error_hat = None, None, None
        if dead is not None:
            aux = auxk_products.encode(
                centred, W_enc, b_enc, dead, min(k_aux, dead.numel()), workspace_bytes
            )
            error_hat = auxk_products.decode(aux, W_dec, dead, workspace_bytes)
            aux_values, aux_indices = aux
        ctx.set_materialize_grads(False)
        ctx.workspace_bytes = workspace_bytes
        ctx.mark_non_differentiable(indices, count)
        ctx.save_for_backward(centred, values, indices, aux_values, aux_indices, dead, W_enc, W_dec)
        return x_hat, values, indices, count, error_hat

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,
        grad: Tensor | None,
        grad_values: Tensor | None,
        _indices: None,
        _count: None,
        grad_error_hat: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        saved = _Saved(*ctx.saved_tensors)
        found, dx = _gradients(
            saved, grad, grad_values, grad_error_hat, ctx.needs_input_grad[0], ctx.workspace_bytes
        )
        num_latents = saved.W_enc.shape[0]
        db_enc = found.b_enc.new_zeros(num_latents).index_copy_(0, found.latents, found.b_enc)
        db_dec = None
        if ctx.needs_input_grad[4]:
            db_dec = -torch.mv(saved.W_enc.T, db_enc)
            if grad is not None:
                db_dec += grad.sum(0)
        return (
            dx,
            as_rows(found.latents, found.W_enc, num_latents),
            db_enc,
            as_rows(found.latents, found.W_dec, num_latents),
            db_dec,
            *(None,) * 4,
        )


def _gradients(
    saved: _Saved,
    grad: Tensor | None,
    grad_values: Tensor | None,
    grad_error_hat: Tensor | None,
    need_dx: bool,
    workspace_bytes: int,
) -> tuple[RowGradients, Tensor | None]:
    always = None
    if saved.dead is not None and grad_error_hat is not None:
        always = torch.zeros(saved.W_enc.shape[0], dtype=torch.bool, device=saved.W_enc.device)
        always[saved.dead] = True
    found = sparse_backward(
        torch.zeros_like(saved.centred) if grad is None else grad,
        saved.centred,
        saved.values,
        saved.indices,
        saved.W_dec,
        grad_values=grad_values,
        always=always,
        need_pre=need_dx,
        workspace_bytes=workspace_bytes,
    )
    dx = None
    if need_dx:
        assert found.pre is not None
        dx = dispatch.gather_sum(
            found.pre, saved.indices, matrix=saved.W_enc, workspace_bytes=workspace_bytes
        )
    if always is not None:
        assert grad_error_hat is not None
        assert saved.aux_values is not None
        assert saved.dead is not None
        pre = auxk_products.add_gradients(
            auxk_products.Aux(saved.aux_values, saved.aux_indices), grad_error_hat.contiguous(),
            saved.centred, saved.W_dec, saved.dead, found, workspace_bytes,
        )  # fmt: skip
        if dx is not None:
            dx += auxk_products.decode(pre, saved.W_enc, saved.dead, workspace_bytes)
    return found, dx
