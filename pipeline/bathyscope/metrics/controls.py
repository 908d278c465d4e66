"""The maths of the controls that stand beside every quality figure.

Rows flow into streamed second moments; principal components flow out. With as many components as
a dictionary has active latents, PCA is what a linear method reaches without sparsity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bathyscope.metrics.arrays import pack, unpack
from bathyscope.metrics.finite import require_finite

# One float64 block is 8 MB; larger ones are no faster.
_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class PrincipalComponents:
    """The affine subspace of largest variance."""

    mean: Tensor
    """Mean of the rows, float32 [width]."""
    components: Tensor
    """Orthonormal rows in falling order of variance, float32 [m, width]."""
    variances: Tensor
    """Variance along each component, float64 [m]; divided by rows, not rows - 1."""
    total_variance: float
    """E‖x - mean‖² over all directions; FVU on the fitted rows is 1 - Σ variances / this."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return mean + the projection of x - mean, in float32; x is [rows, width]."""
        components, mean = self.components.to(x.device), self.mean.to(x.device)
        return ((x.float() - mean) @ components.T) @ components + mean


class SecondMoments:
    """Streaming rows, mean and scatter Σ(x-x̄)(x-x̄)ᵀ in float64, the mean always the current one.

    Memory: width² x 8 bytes (134 MB at 4096). Blocks are joined by the formula of Chan, Golub and
    LeVeque (1979), so a large mean does not cancel.
    """

    def __init__(self, width: int) -> None:
        if width < 1:
            raise ValueError(f"width is {width}: wanted the number of columns of x, at least 1")
        self.width = width
        self.num_rows = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Add rows [rows, width], any float dtype; raises `NonFiniteError` for NaN or infinity."""
        if x.ndim != 2 or x.shape[1] != self.width:
            raise ValueError(f"x is {tuple(x.shape)}: wanted [rows, {self.width}]")
        require_finite("x", x)
        for rows in x.split(max(1, _BLOCK_ELEMENTS // self.width)):
            if len(rows) == 0:
                continue
            block = rows.to(torch.float64)
            mean = block.mean(dim=0)
            block = block - mean
            self._join(len(rows), mean.cpu(), (block.T @ block).cpu())

    def merge(self, other: SecondMoments) -> None:
        """Add the rows of another accumulator of the same width."""
        if other.width != self.width:
            raise ValueError(f"cannot merge width {other.width} into width {self.width}")
        if other.num_rows:
            self._join(other.num_rows, other.mean, other.scatter)

    def fit(self, num_components: int) -> PrincipalComponents:
        """Return the first `num_components` principal components of the rows seen.

        Of each component, the entry of largest size is positive: signs do not depend on the
        linear algebra library. Raises `ValueError` for fewer than two rows or more components
        than columns.
        """
        if not 1 <= num_components <= self.width:
            raise ValueError(f"num_components is {num_components}: wanted 1 to {self.width}")
        if self.num_rows < 2:
            raise ValueError(f"{self.num_rows} rows were seen: principal components need two")
        variances, vectors = torch.linalg.eigh(self.scatter / self.num_rows)
        components = vectors.T.flip(0)[:num_components]
        largest = components.abs().argmax(dim=1, keepdim=True)
        components = components * components.gather(1, largest).sign()
        return PrincipalComponents(
            mean=self.mean.float(),
            components=components.float().contiguous(),
            variances=variances.flip(0)[:num_components].clamp(min=0),
            total_variance=float(self.scatter.trace()) / self.num_rows,
        )

    def deviation_scale(self) -> float:
        """Return sqrt(E‖x - x̄‖² / width), the root mean squared deviation of one element."""
        if self.num_rows == 0:
            raise ValueError("no rows were seen: a deviation needs at least one")
        return float((self.scatter.trace() / (self.num_rows * self.width)).sqrt())

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values: 11 bytes per entry of the scatter matrix."""
        return {
            "width": self.width,
            "num_rows": self.num_rows,
            "mean": pack(self.mean.numpy()),
            "scatter": pack(self.scatter.numpy()),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the accumulator that `to_dict` described."""
        made = cls(state["width"])
        made.num_rows = int(state["num_rows"])
        made.mean = torch.from_numpy(unpack(state["mean"]).astype(np.float64))
        made.scatter = torch.from_numpy(unpack(state["scatter"]).astype(np.float64))
        return made

    def _join(self, num_rows: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.num_rows + num_rows
        delta = mean - self.mean
        weight = self.num_rows * num_rows / total
        self.scatter = self.scatter + scatter + weight * torch.outer(delta, delta)
        self.mean = self.mean + delta * (num_rows / total)
        self.num_rows = total


def deviation_scale(num_rows: int, sums: Tensor, square_sums: Tensor) -> float:
    """Return sqrt(E‖x - x̄‖² / width) from Σx and Σx² per column, float64 [width].

    For the sums that receipts hold: E‖x - x̄‖² = Σ_d (Σx²/n - (Σx/n)²). This difference loses
    digits where the mean is large; 1e-16 · (mean / deviation)² of the result is lost in float64.
    Raises `ValueError` for no rows, or when rounding has eaten the whole deviation.
    """
    if num_rows < 1 or sums.ndim != 1 or sums.shape != square_sums.shape:
        raise ValueError(
            f"{num_rows} rows, sums {tuple(sums.shape)}, square sums {tuple(square_sums.shape)}: "
            "wanted at least one row and two vectors of one width"
        )
    mean = sums.to(torch.float64) / num_rows
    variance = (square_sums.to(torch.float64) / num_rows - mean.square()).mean()
    if not bool(torch.isfinite(variance)):
        require_finite("sums", sums)
        require_finite("square_sums", square_sums)
    if float(variance) < 0:
        raise ValueError(
            f"the deviation came out as {float(variance):.3g} under the root: the mean is too "
            "large for plain sums; use SecondMoments on the rows"
        )
    return float(variance.sqrt())
