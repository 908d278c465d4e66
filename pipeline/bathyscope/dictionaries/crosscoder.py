"""Crosscoders (Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model
Diffing").

One set of latents for several hook points or models, whose columns stand side by side:

    z = f(Σ_h W_enc[:, h] (x_h - c_h) + b_enc),     x̂_h = W_dec[:, h]ᵀ z + b_dec[h]

Each hook point is scaled to the same variance before training. The concatenated decoder row has
unit norm, so selection by z is selection by z times that norm. How the norm spreads over hook
points is the result: a latent with all of it at one of them is exclusive to it, if the check of
`evaluation.latent_scaling` agrees.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary


class Crosscoder(Dictionary):
    """Reads and writes several hook points with one set of latents."""

    kind = "crosscoder"

    @torch.no_grad()
    def decoder_norms(self, scales: Tensor | None = None) -> Tensor:
        """‖W_dec[f, h]‖ per latent and hook point [num_latents, hook points].

        `scales` [d_out] are those that the columns were multiplied with when it was saved; with
        them norms are those of the training, comparable between hook points.
        """
        W_dec = self.W_dec if scales is None else self.W_dec / scales.to(self.W_dec.dtype)
        norms = [torch.linalg.vector_norm(W_dec[:, b.columns], dim=1) for b in self.outputs]
        return torch.stack(norms, dim=1)
