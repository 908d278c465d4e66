"""The rows of a matrix as unit vectors in float64, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bathyscope.metrics.finite import require_finite

# One float64 block is 8 MB.
_BLOCK_ELEMENTS = 1 << 20


class UnitRows:
    """Rows W [n, width] as Ŵ and ‖W‖; those left out read as zeros and have share 0.

    Left out are zero rows and rows of weight 0. Raises `ValueError` where W is no matrix of floats,
    the weights do not fit or no row is left, `NonFiniteError` for NaN or infinity in either.
    """

    def __init__(self, W: Tensor, weights: Tensor | None) -> None:
        if W.ndim != 2 or 0 in W.shape or not W.is_floating_point():
            raise ValueError(
                f"W is {tuple(W.shape)} of {W.dtype}: wanted floats [rows, width], one row at least"
            )
        self.W, self.width, self.weighted = W, W.shape[1], weights is not None
        self.norms = torch.empty(len(W), dtype=torch.float64, device=W.device)
        for span in self.spans():
            require_finite(f"W[{span.start}:{span.stop}]", W[span])
            self.norms[span] = torch.linalg.vector_norm(W[span].to(torch.float64), dim=1)
        self.num_zero = int((self.norms == 0).sum())
        share = torch.ones_like(self.norms) if weights is None else self._checked(weights)
        share = share * (self.norms > 0)
        if not float(share.sum()) > 0:
            raise ValueError(
                f"of {len(W)} rows {self.num_zero} are zero and the others have weight 0: there is "
                "no direction to measure"
            )
        self.share = share / share.sum()
        self.norms = self.norms * (share > 0)
        self.kept = (self.norms > 0).nonzero()[:, 0]
        self._inverse = torch.where(self.norms > 0, 1 / self.norms, 0.0)

    def gram(self, scale: Tensor) -> Tensor:
        """Return Σ_i scale_i² Ŵ_i Ŵ_iᵀ, float64 [width, width]; scale is [n]."""
        total = torch.zeros(self.width, self.width, dtype=torch.float64, device=self.W.device)
        for span in self.spans():
            block = self.unit(span) * scale[span, None]
            total.addmm_(block.T, block)
        return total

    def spans(self) -> Iterator[slice]:
        """Yield blocks of consecutive rows that are small enough for memory."""
        step = max(1, _BLOCK_ELEMENTS // self.width)
        return (slice(at, min(at + step, len(self.W))) for at in range(0, len(self.W), step))

    def unit(self, which: slice | Tensor) -> Tensor:
        """Return Ŵ of some rows, float64 [rows, width]."""
        return self.W[which].to(torch.float64) * self._inverse[which, None]

    def _checked(self, weights: Tensor) -> Tensor:
        if weights.shape != self.norms.shape:
            raise ValueError(
                f"weights are {tuple(weights.shape)}: wanted one per row, [{len(self.W)}]"
            )
        require_finite("weights", weights)
        if bool((weights < 0).any()):
            raise ValueError(f"the least weight is {float(weights.min()):.3g}: wanted none below 0")
        return weights.to(self.norms)
