"""The pre-activation loss, which brings back latents whose threshold is too high for any row.

Anthropic's update of January 2025 on dictionary learning optimisation (Conerly et al.,
"Dictionary Learning Optimization Techniques") adds to the loss of JumpReLU

    w · Σ_f relu(θ_f - pre_f) ‖W_dec row f‖,     pre = W_enc (x - centre) + b_enc

Here it is summed over dead latents only, as SAELens does, averaged over rows, and divided by the
root of the mean squared norm of y, so that `w` means the same whatever the scale of the rows. With
n_f the rows on which a dead latent f stays below its threshold, and s the norm of its decoder row,

    dL/dθ_f = w n_f s,   dL/db_enc_f = -w n_f s,   dL/dW_enc_f = -w s Σ (x - centre) over these rows

so thresholds fall, biases rise, and the encoder turns to rows that it has been silent on. AuxK
reaches what a latent writes, and leaves its threshold where it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.jumprelu import JumpReLU

_MOST_NUMBERS = 2**24


def preactivation_loss(
    part: Dictionary, x: Tensor, centre: Tensor | None, dead: Tensor, *, unit_rows: bool
) -> Tensor:
    """Σ over rows x [rows, d_in] and dead latents of relu(θ - pre) ‖W_dec row‖; a scalar.

    `dead` are numbers of latents, int64, ascending. With `unit_rows` norms are 1. Gradients flow
    to W_enc (row-sparse), b_enc, thresholds and `centre`, and to W_dec where its norms count; x
    gets none.
    """
    assert isinstance(part.activation, JumpReLU)
    threshold = part.activation.threshold
    lacking: Tensor = _Lacking.apply(x, part.W_enc, part.b_enc, threshold, centre, dead)
    if unit_rows:
        return lacking.sum()
    return (lacking * torch.linalg.vector_norm(part.W_dec[dead], dim=1)).sum()


class _Lacking(torch.autograd.Function):
    """Σ over rows of relu(θ - pre) for each dead latent [dead]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        threshold: Tensor,
        centre: Tensor | None,
        dead: Tensor,
    ) -> Tensor:
        centred = x if centre is None else x - centre
        sums = b_enc.new_zeros(len(dead))
        counts = b_enc.new_zeros(len(dead))
        rows = W_enc.new_zeros(len(dead), W_enc.shape[1])
        size = max(1, _MOST_NUMBERS // max(len(x), 1))
        for start in range(0, len(dead), size):
            some = slice(start, min(start + size, len(dead)))
            latents = dead[some]
            lacking = threshold[latents] - torch.addmm(b_enc[latents], centred, W_enc[latents].T)
            below = (lacking > 0).to(centred.dtype)
            sums[some] = (lacking * below).sum(0)
            counts[some] = below.sum(0)
            rows[some] = below.T @ centred
        ctx.save_for_backward(W_enc, threshold, dead, counts, rows)
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        W_enc, threshold, dead, counts, rows = ctx.saved_tensors
        each = grad * counts
        dW_enc = torch.sparse_coo_tensor(
            dead[None], -grad[:, None] * rows, W_enc.shape, is_coalesced=True,
            check_invariants=False,
        )  # fmt: skip
        db_enc = each.new_zeros(W_enc.shape[0]).index_copy_(0, dead, -each)
        dthreshold = torch.zeros_like(threshold).index_copy_(0, dead, each.to(threshold.dtype))
        dcentre = each @ W_enc[dead] if ctx.needs_input_grad[4] else None
        return None, dW_enc, db_enc, dthreshold, dcentre, None
