"""Canonical correlations of two models on the same rows: SVCCA and PWCCA, from streamed sums.

With the scatter matrices C_xx, C_yy, C_xy of centred rows, and eigenvectors U, eigenvalues λ,
the singular values of

    M = Λ_x^(-1/2) U_xᵀ C_xy U_y Λ_y^(-1/2)

are the canonical correlations ρ. SVCCA (Raghu et al. 2017, arXiv:1706.05806) keeps the largest
eigenvalues that hold 99 % of each side's variance and takes the mean of ρ. PWCCA (Morcos et al.
2018, arXiv:1806.05759) keeps all and weights ρ_i by α_i = Σ_j |⟨h_i, x_j⟩|, with h_i the canonical
variable of x and x_j its columns; so it has a direction.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.studies.paired_moments import PairedMoments

# Eigenvalues below this share of the largest are rounding: float64 sums hold about 12 digits.
_RANK = 1e-10


class Svcca(NamedTuple):
    """Mean canonical correlation of the directions that hold most of the variance."""

    mean_correlation: float
    mean_squared: float
    """Mean of ρ²."""
    floor: float
    """√(max(components) / (n - 1)): the root of the mean of ρ² when rows are independent; the mean
    of ρ lies a little below. Rows of one document are not independent: see the shuffled floor."""
    components: tuple[int, int]
    """Directions kept of x and of y."""
    num_rows: int


class Pwcca(NamedTuple):
    """Projection-weighted mean canonical correlations."""

    weighted_by_x: float
    weighted_by_y: float
    components: tuple[int, int]
    num_rows: int


def svcca(moments: PairedMoments, *, variance: float = 0.99) -> Svcca:
    """Return SVCCA; `variance` is the share of each side's variance that is kept.

    Raises `ValueError` when there are no more rows than directions on both sides together: some
    correlations would be 1 whatever the rows are.
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance is {variance}: wanted a share above 0 and at most 1")
    _, _, _, rho, kept = _canonical(moments, variance)
    n = moments.num_rows
    return Svcca(
        mean_correlation=float(rho.mean()),
        mean_squared=float(rho.square().mean()),
        floor=math.sqrt(max(kept) / (n - 1)),
        components=kept,
        num_rows=n,
    )


def pwcca(moments: PairedMoments) -> Pwcca:
    """Return PWCCA weighted by either side. Raises like `svcca`."""
    whiten_x, whiten_y, rotations, rho, kept = _canonical(moments, 1.0)
    by_side = []
    for name, whiten, rotation in zip(("xx", "yy"), (whiten_x, whiten_y), rotations, strict=True):
        # ⟨h_i, x_j⟩ = (rotationᵀ whitenᵀ C_xx)_ij.
        weights = (rotation.T @ (whiten.T @ moments.scatter(name))).abs().sum(1)
        by_side.append(float(weights @ rho / weights.sum()))
    return Pwcca(by_side[0], by_side[1], kept, moments.num_rows)


def _canonical(
    moments: PairedMoments, variance: float
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor, tuple[int, int]]:
    whiten_x = _whitening(moments.scatter("xx"), variance, "x")
    whiten_y = _whitening(moments.scatter("yy"), variance, "y")
    kept = (whiten_x.shape[1], whiten_y.shape[1])
    if moments.num_rows - 1 < sum(kept):
        raise ValueError(
            f"{moments.num_rows} rows for {kept[0]} and {kept[1]} directions: canonical "
            f"correlations need at least {sum(kept) + 1} rows; take more rows or less variance"
        )
    left, rho, right = torch.linalg.svd(
        whiten_x.T @ moments.scatter("xy") @ whiten_y, full_matrices=False
    )
    return whiten_x, whiten_y, (left, right.T), rho.clamp(0, 1), kept


def _whitening(scatter: Tensor, variance: float, side: str) -> Tensor:
    """U Λ^(-1/2) of the largest eigenvalues that hold `variance` of the trace."""
    values, vectors = torch.linalg.eigh(scatter)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if float(values[0]) <= 0:
        raise ValueError(f"the rows of {side} are all alike: there is no direction to correlate")
    rank = int((values > _RANK * values[0]).sum())
    shares = values[:rank].cumsum(0) / values[:rank].sum()
    # Without the last digits, 99 % of ten equal values would be luck.
    kept = min(rank, int((shares < variance - 1e-12).sum()) + 1)
    return vectors[:, :kept] / values[:kept].sqrt()
