"""Gated (Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse
Autoencoders", arXiv:2404.16014).

    gate = W_enc (x - centre) + b_enc
    z    = relu(exp(r_mag) (gate - b_enc) + b_mag)  where gate > 0, else 0

A latent is switched on by the gate and measured by the second branch, so the L1 penalty on
relu(gate) does not shrink z. The loss also has the error of decoding relu(gate) with a decoder
that it does not move.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bathyscope.dictionaries.activation_function import (
    MOST_ENTRIES,
    ActivationFunction,
    Active,
    padded,
    positive,
    start_bias,
)
from bathyscope.dictionaries.peers import Peers
from bathyscope_kernels import Encoded, Ragged, rows_above


class Gated(ActivationFunction):
    """A gate that opens and a magnitude that is measured apart; b_enc is the gate's bias."""

    name = "gated"

    def __init__(self, k: int | None, num_latents: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(k, num_latents, dtype)
        self.r_mag = nn.Parameter(torch.zeros(num_latents, dtype=dtype))
        self.b_mag = nn.Parameter(torch.zeros(num_latents, dtype=dtype))

    def encode(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Encoded:
        """The magnitudes of rows x [rows, d_in] whose gates are open, if positive."""
        entries = positive(x, W_enc, b_enc)
        return padded(entries._replace(values=self.magnitudes(entries, b_enc)))

    def active(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None, peers: Peers
    ) -> Active:
        """The same, and the gates, with gradients."""
        entries = rows_above(x, W_enc, b_enc, centre=centre, most_entries=MOST_ENTRIES)
        values = self.magnitudes(entries, b_enc)
        l0 = (values > 0).sum().to(values.dtype)
        return Active(values, entries.indices, entries.offsets, l0, gate=entries.values)

    def magnitudes(self, gates: Ragged, b_enc: Tensor) -> Tensor:
        """What latents measure where these gates are looked at; b_enc has no part in it."""
        latents = gates.indices.long()
        plain = gates.values - b_enc[latents]
        return torch.relu(plain * self.r_mag.exp()[latents] + self.b_mag[latents])

    def linear(self, W_enc: Tensor, b_enc: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """w [n, d_in] and b [n] of the branch that measures."""
        return W_enc[latents] * self.r_mag[latents].exp()[:, None], self.b_mag[latents]

    @torch.no_grad()
    def prepare(self, pre: Tensor) -> float:
        """Start b_enc where four times k latents are active, rather than half of all."""
        return start_bias(pre, self.k, self.num_latents)

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Scale the second bias; r_mag is a ratio."""
        self.b_mag.mul_(factor)

    @torch.no_grad()
    def fit(self, W_enc: Tensor, b_enc: Tensor, factor: float) -> None:
        """Multiply magnitudes; the gates, which have a reconstruction of their own, stay."""
        self.r_mag.add_(math.log(factor))
        self.b_mag.mul_(factor)
