"""JumpReLU (Rajamanoharan et al. 2024, "Jumping Ahead", arXiv:2407.14435, sections 3 and 4).

    z = pre where pre > theta, else 0,    pre = W_enc (x - centre) + b_enc,   theta per latent

The step has no slope, so thresholds are trained through a band of width eps around them:

    d z / d theta  = -(theta / eps) rect((pre - theta) / eps)
    d L0 / d theta = -(1 / eps) rect((pre - theta) / eps),     rect(u) = 1 for |u| < 1/2, else 0

theta itself is the parameter, in float32: its logarithm could not become negative or small.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bathyscope.dictionaries.activation_function import (
    MOST_ENTRIES,
    ActivationFunction,
    Active,
    level_of,
    padded,
)
from bathyscope.dictionaries.peers import Peers
from bathyscope.errors import ConfigError
from bathyscope.values import Json
from bathyscope_kernels import Encoded, Ragged, rows_above, threshold_encode


class JumpReLU(ActivationFunction):
    """Every pre-activation above the threshold of its latent.

    `bandwidth` is eps as a multiple of the standard deviation of pre-activations at the start of
    training; thresholds start where k latents per row are active.
    """

    name = "jumprelu"

    def __init__(
        self,
        k: int | None,
        num_latents: int,
        dtype: torch.dtype = torch.float32,
        *,
        bandwidth: float = 0.5,
    ) -> None:
        super().__init__(k, num_latents, dtype)
        if not bandwidth > 0:
            raise ConfigError(f"dictionary.bandwidth is {bandwidth}; a number above 0 is wanted.")
        self.bandwidth = bandwidth
        self.eps = bandwidth
        """The width of the band in units of pre-activations; `prepare` sets it."""
        wide = torch.promote_types(dtype, torch.float32)
        self.threshold = nn.Parameter(torch.zeros(num_latents, dtype=wide))

    def encode(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Encoded:
        """Every pre-activation of rows x [rows, d_in] above its threshold, if positive."""
        return padded(Ragged(*threshold_encode(x, W_enc, b_enc, self.threshold.detach())[:3]))

    def active(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None, peers: Peers
    ) -> Active:
        """The same and the lower half of the band, with gradients."""
        floor = (self.threshold - self.eps / 2).detach()
        entries = rows_above(x, W_enc, b_enc, floor, centre=centre, most_entries=MOST_ENTRIES)
        threshold = self.threshold[entries.indices.long()]
        values = _Jump.apply(entries.values, threshold, self.eps)
        l0 = _Step.apply(entries.values, threshold, self.eps).sum()
        return Active(values, entries.indices, entries.offsets, l0)

    @property
    def spread(self) -> float:
        """The standard deviation that pre-activations had at the start of training."""
        return self.eps / self.bandwidth

    @torch.no_grad()
    def prepare(self, pre: Tensor) -> float:
        """Start the band and the thresholds; b_enc starts at 0."""
        self.eps = self.bandwidth * float(pre.std())
        self.threshold.fill_(max(level_of(pre, self.k / self.num_latents), self.eps / 2))
        return 0.0

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Scale thresholds and band."""
        self.threshold.mul_(factor)
        self.eps *= factor

    def training_state(self) -> Json:
        """The width of the band."""
        return {"eps": self.eps}

    def load_training_state(self, state: Json) -> None:
        """Take the width of the band up again."""
        self.eps = float(state["eps"])

    def settings(self) -> Json:
        """Also the band."""
        return {**super().settings(), "bandwidth": self.bandwidth, "eps": self.eps}


class _Jump(torch.autograd.Function):
    """pre where pre > theta, else 0."""

    @staticmethod
    def forward(ctx, pre: Tensor, threshold: Tensor, eps: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(pre, threshold)
        ctx.eps = eps
        return torch.where(pre > threshold, pre, pre.new_zeros(()))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        pre, threshold = ctx.saved_tensors
        band = ((pre - threshold).abs() < ctx.eps / 2).to(grad.dtype)
        return grad * (pre > threshold), -grad * band * threshold / ctx.eps, None


class _Step(torch.autograd.Function):
    """1 where pre > theta, else 0; its gradient goes to theta alone."""

    @staticmethod
    def forward(ctx, pre: Tensor, threshold: Tensor, eps: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(pre, threshold)
        ctx.eps = eps
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[no-untyped-def]
        pre, threshold = ctx.saved_tensors
        band = ((pre - threshold).abs() < ctx.eps / 2).to(grad.dtype)
        return None, -grad * band / ctx.eps, None
