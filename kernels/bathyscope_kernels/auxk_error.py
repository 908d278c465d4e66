"""AuxK for training: what the dead latents alone make of a batch, with row-sparse gradients.

Flow: rows, both matrices and the numbers of the dead latents go in; the reconstruction of the
error by their k largest pre-activations comes out (Gao et al. 2024, arXiv:2406.04093, appendix
A.2). Only rows of dead latents get a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels import auxk_products
from bathyscope_kernels.backward import RowGradients
from bathyscope_kernels.encode import check_encoder
from bathyscope_kernels.ragged_backward import as_rows
from bathyscope_kernels.workspace import WORKSPACE_BYTES

Narrow = Callable[[Tensor, Tensor], Tensor]


def auxk_error(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    dead: Tensor,
    k: int,
    *,
    centre: Tensor | None = None,
    narrow: Narrow | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Tensor:
    """Return e_hat [rows, d_out] = S W_dec[dead], S the k largest relu(pre) of the dead latents.

    pre = (x - centre) @ W_enc[dead]^T + b_enc[dead]; x [rows, d], W_enc [latents, d], b_enc
    [latents], W_dec [latents, d_out], centre [d] or None: float32, or all float64. `dead` is int64
    [number], strictly ascending, not empty; k is capped by its number. `narrow` may leave out some
    of what was selected, where other dead latents are held elsewhere: it gets values and latents
    [rows, n] or [n], and returns which stay. Gradients flow to W_enc,
    b_enc, W_dec and centre, row-sparse for the matrices; x gets none. Raises ValueError for
    shapes, dtypes or devices that do not fit together.
    """
    check_encoder(x, W_enc, b_enc)
    if W_dec.ndim != 2 or W_dec.shape[0] != W_enc.shape[0]:
        raise ValueError(f"got W_dec {list(W_dec.shape)}, wanted [{W_enc.shape[0]}, d_out]")
    if dead.ndim != 1 or dead.dtype != torch.int64 or dead.numel() == 0 or k < 1:
        raise ValueError(
            f"got dead {list(dead.shape)} of {dead.dtype} and k = {k}; wanted at least one latent "
            "as int64, and k >= 1; leave the term out where none is dead"
        )
    k = min(k, dead.numel())
    error_hat: Tensor = _AuxK.apply(
        x, W_enc, b_enc, W_dec, centre, dead, k, narrow, workspace_bytes
    )
    return error_hat


class _AuxK(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        centre: Tensor | None,
        dead: Tensor,
        k: int,
        narrow: Narrow | None,
        workspace_bytes: int,
    ) -> Tensor:
        centred = (x if centre is None else x - centre).contiguous()
        aux = auxk_products.encode(centred, W_enc, b_enc, dead, k, workspace_bytes)
        if narrow is not None:
            latents = dead if aux.indices is None else dead[aux.indices.long()]
            keep = narrow(aux.values, latents)
            aux = aux._replace(values=aux.values.masked_fill(~keep, 0))
        ctx.workspace_bytes = workspace_bytes
        ctx.save_for_backward(centred, W_enc, W_dec, dead, *aux)
        return auxk_products.decode(aux, W_dec, dead, workspace_bytes)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        centred, W_enc, W_dec, dead, values, indices = ctx.saved_tensors
        found = RowGradients(
            dead,
            W_dec.new_zeros(dead.numel(), W_dec.shape[1]),
            W_enc.new_zeros(dead.numel(), W_enc.shape[1]),
            W_enc.new_zeros(dead.numel()),
            None,
        )
        auxk_products.add_gradients(
            auxk_products.Aux(values, indices), grad.contiguous(), centred, W_dec, dead, found,
            ctx.workspace_bytes,
        )  # fmt: skip
        latents = W_enc.shape[0]
        db = found.b_enc.new_zeros(latents).index_copy_(0, dead, found.b_enc)
        return (
            None,
            as_rows(dead, found.W_enc, latents),
            db,
            as_rows(dead, found.W_dec, latents),
            -torch.mv(W_enc.T, db) if ctx.needs_input_grad[4] else None,
            None, None, None, None,
        )  # fmt: skip
