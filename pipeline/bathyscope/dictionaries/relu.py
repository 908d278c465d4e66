"""ReLU with an L1 penalty (Bricken et al. 2023, "Towards Monosemanticity"; Cunningham et al. 2023,
arXiv:2309.08600).

    z = relu(W_enc (x - centre) + b_enc),     the loss has  weight * sum of z ||W_dec row||

The norm keeps the penalty from being dodged by a long decoder row and a small z; where rows have
unit norm it is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope.dictionaries.activation_function import (
    MOST_ENTRIES,
    ActivationFunction,
    Active,
    padded,
    positive,
    start_bias,
)
from bathyscope.dictionaries.peers import Peers
from bathyscope_kernels import Encoded, rows_above


class ReLU(ActivationFunction):
    """Every positive pre-activation."""

    name = "relu"

    def encode(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Encoded:
        """Every positive pre-activation of rows x [rows, d_in]."""
        return padded(positive(x, W_enc, b_enc))

    def active(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None, peers: Peers
    ) -> Active:
        """The same, with gradients."""
        entries = rows_above(x, W_enc, b_enc, centre=centre, most_entries=MOST_ENTRIES)
        return Active(*entries, entries.values.new_tensor(float(entries.values.numel())))

    @torch.no_grad()
    def prepare(self, pre: Tensor) -> float:
        """Start b_enc where four times k latents are active, rather than half of all."""
        return start_bias(pre, self.k, self.num_latents)
