"""How well a dictionary gives its input back: FVU, cosine, norms, bias and L0.

Rows of x and x_hat flow in block by block; float64 sums stay. One pass, mergeable, JSON.

    FVU            = Σ‖x - x̂‖² / Σ‖x - x̄‖²     pooled, x̄ the mean of ALL rows seen
    relative bias  = E‖x̂‖² / E[x·x̂]            Gated SAE (Rajamanoharan et al. 2024), eq. 10
    cosine         = E[x·x̂ / (‖x‖‖x̂‖)]
    norm ratio     = E[‖x̂‖ / ‖x‖]
    L0             = E[number of non-zero latents]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bathyscope.metrics.arrays import pack, unpack
from bathyscope.metrics.finite import require_finite

# One float64 block is 8 MB: larger ones leave the cache and halve the speed, smaller ones pay for
# a synchronisation each on a GPU.
_BLOCK_ELEMENTS = 1 << 20
# Of Σ‖x‖²; float64 rounding of a mean leaves at most about 1e-31.
_EQUAL_ROWS = 1e-28
_SUMS = (
    "squared_error",
    "squared_norm",
    "squared_norm_hat",
    "dot",
    "cosine",
    "norm_ratio",
    "nonzero_rows",
    "active",
)


class Reconstruction:
    """Streaming sums over pairs of rows x and x_hat [rows, width].

    The deviation Σ‖x - x̄‖² is kept as block means and centred sums that are joined by the
    formula of Chan, Golub and LeVeque (1979), so a mean far larger than the deviation does not
    cancel. Splitting the stream otherwise changes results in the last float64 digits only.
    """

    def __init__(self, width: int) -> None:
        if width < 1:
            raise ValueError(f"width is {width}: wanted the number of columns of x, at least 1")
        self.width = width
        self.num_rows = 0
        self._deviation = 0.0
        self._mean = torch.zeros(width, dtype=torch.float64)
        self._sums = dict.fromkeys(_SUMS, 0.0)

    @torch.no_grad()
    def update(self, x: Tensor, x_hat: Tensor, *, num_active: Tensor) -> None:
        """Add rows x and x_hat [rows, width], any float dtype, with their L0 [rows].

        `num_active` is `count_active(values)` for top-k rows; all on one device.
        Raises `NonFiniteError` and leaves the sums untouched when a value is NaN or infinite.
        """
        self._check_shapes(x, x_hat, num_active)
        require_finite("x", x)
        require_finite("x_hat", x_hat)
        for rows in _blocks(len(x), self.width):
            block, block_hat = x[rows].to(torch.float64), x_hat[rows].to(torch.float64)
            mean = block.mean(dim=0)
            deviation = float((block - mean).square_().sum())
            self._join_deviation(len(block), mean.cpu(), deviation)
            for name, value in _block_sums(block, block_hat, num_active[rows]).items():
                self._sums[name] += value

    def merge(self, other: Reconstruction) -> None:
        """Add the rows of another accumulator of the same width."""
        if other.width != self.width:
            raise ValueError(f"cannot merge width {other.width} into width {self.width}")
        if other.num_rows == 0:
            return
        self._join_deviation(other.num_rows, other._mean, other._deviation)
        for name in _SUMS:
            self._sums[name] += other._sums[name]

    def results(self) -> dict[str, float]:
        """Return every figure by name; raises `ValueError` when no row was seen.

        `fvu` is NaN when all rows are equal (no deviation to explain), `relative_bias` when
        Σx·x̂ is 0, `norm_ratio` when every x is zero: rows with x = 0 leave that mean.
        Cosine of a zero row is 1 when both are zero and 0 when only one is.
        `mse` is per element; `l0` is per row.
        """
        if self.num_rows == 0:
            raise ValueError("no rows were evaluated: check the split, the filters and the hook")
        sums, n = self._sums, self.num_rows
        return {
            "num_rows": float(n),
            "fvu": _ratio(sums["squared_error"], self._true_deviation()),
            "mse": sums["squared_error"] / (n * self.width),
            "l0": sums["active"] / n,
            "cosine": sums["cosine"] / n,
            "norm_ratio": _ratio(sums["norm_ratio"], sums["nonzero_rows"]),
            "relative_bias": _ratio(sums["squared_norm_hat"], sums["dot"]),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values, exact to the bit."""
        return {
            "width": self.width,
            "num_rows": self.num_rows,
            "deviation": self._deviation,
            "mean": pack(self._mean.numpy()),
            "sums": dict(self._sums),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the accumulator that `to_dict` described."""
        made = cls(state["width"])
        made.num_rows = int(state["num_rows"])
        made._deviation = float(state["deviation"])
        made._mean = torch.from_numpy(unpack(state["mean"]).astype(np.float64))
        made._sums = {name: float(state["sums"][name]) for name in _SUMS}
        return made

    def _join_deviation(self, num_rows: int, mean: Tensor, deviation: float) -> None:
        total = self.num_rows + num_rows
        delta = mean - self._mean
        weight = self.num_rows * num_rows / total
        self._deviation += deviation + weight * float(delta.square().sum())
        self._mean = self._mean + delta * (num_rows / total)
        self.num_rows = total

    def _true_deviation(self) -> float:
        # The mean of equal rows can be off by one rounding; the squares of that are no deviation.
        rounding = _EQUAL_ROWS * self._sums["squared_norm"]
        return self._deviation if self._deviation > rounding else 0.0

    def _check_shapes(self, x: Tensor, x_hat: Tensor, num_active: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.width or x_hat.shape != x.shape:
            raise ValueError(
                f"x is {tuple(x.shape)} and x_hat is {tuple(x_hat.shape)}: "
                f"wanted both as [rows, {self.width}]"
            )
        if num_active.shape != x.shape[:1]:
            raise ValueError(
                f"num_active is {tuple(num_active.shape)}: wanted one count for each "
                f"of {len(x)} rows"
            )


def count_active(values: Tensor) -> Tensor:
    """Return the L0 of each row: how many of values [rows, k] are not zero, int64 [rows]."""
    return (values != 0).sum(dim=-1)


def _blocks(num_rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK_ELEMENTS // width)
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def _block_sums(x: Tensor, x_hat: Tensor, num_active: Tensor) -> dict[str, float]:
    norm_sq, norm_sq_hat = x.square().sum(dim=1), x_hat.square().sum(dim=1)
    norm, norm_hat = norm_sq.sqrt(), norm_sq_hat.sqrt()
    dot = (x * x_hat).sum(dim=1)
    nonzero, nonzero_hat = norm > 0, norm_hat > 0
    both = nonzero & nonzero_hat
    # Both zero counts as a perfect match, one zero as none.
    cosine = torch.where(
        both, dot / torch.where(both, norm * norm_hat, 1.0), (nonzero == nonzero_hat).to(dot.dtype)
    )
    ratio = torch.where(nonzero, norm_hat / torch.where(nonzero, norm, 1.0), 0.0)
    sums = torch.stack(
        [
            (x - x_hat).square_().sum(),
            norm_sq.sum(),
            norm_sq_hat.sum(),
            dot.sum(),
            cosine.sum(),
            ratio.sum(),
            nonzero.sum().to(torch.float64),
            num_active.sum().to(torch.float64),
        ]
    )
    return dict(zip(_SUMS, sums.tolist(), strict=True))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator != 0 else float("nan")
