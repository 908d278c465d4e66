"""The linear map from the rows of one model to those of another, from sums over paired rows.

    y ≈ ȳ + Mᵀ(x - x̄),    M = (S_xx + λ I)⁻¹ S_xy,    S_ab = Σ (a - ā)(b - b̄)ᵀ

One λ serves all columns and is chosen by generalised cross-validation (Golub, Heath and Wahba
1979), which needs no second set of rows:

    GCV(λ) = n RSS(λ) / (n - df(λ))²,    df(λ) = 1 + Σ_i s_i / (s_i + λ)

with s the eigenvalues of S_xx. It takes rows for independent, which rows of one text are not, so λ
comes out a little too small. All of it follows from S_xx, S_xy and the trace of S_yy, so nothing
grows with the rows: d_x³ work once they are summed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.studies.paired_moments import PairedMoments

_PENALTIES = torch.logspace(-10, 4, 57, dtype=torch.float64)
"""λ as shares of the largest eigenvalue of S_xx."""


class LinearMap(NamedTuple):
    """A fitted map."""

    matrix: Tensor
    """M [d_x, d_y], float64: rows times it are rows of the other model."""
    penalty: float
    """λ."""
    fvu: float
    """What it leaves unexplained of other rows, as GCV estimates it."""


@torch.no_grad()
def ridge_maps(moments: PairedMoments) -> tuple[LinearMap, LinearMap]:
    """The maps from x to y and from y to x.

    Raises `ValueError` for fewer than 3 rows and for a side whose rows are all alike.
    """
    if moments.num_rows < 3:
        raise ValueError(
            f"{moments.num_rows} paired rows were seen: a map between two models needs at least 3, "
            "and should have several for each of their dimensions"
        )
    xx, yy, xy = (moments.scatter(name) for name in ("xx", "yy", "xy"))
    return _ridge(xx, xy, yy, moments.num_rows), _ridge(yy, xy.T, xx, moments.num_rows)


def _ridge(xx: Tensor, xy: Tensor, yy: Tensor, num_rows: int) -> LinearMap:
    values, vectors = torch.linalg.eigh(xx)
    values, total = values.clamp_min(0), float(yy.trace())
    largest = float(values[-1])
    if not (largest > 0 and total > 0):
        raise ValueError(
            "The rows of one side are all alike, so that no map can be fitted to them. Does the "
            "hook point carry anything?"
        )
    turned = vectors.T @ xy
    explained = turned.square().sum(1)
    best = (math.inf, 0.0)
    for penalty in (_PENALTIES * largest).tolist():
        shrunk = values + penalty
        left = total - float((explained * (values + 2 * penalty) / shrunk.square()).sum())
        free = num_rows - 1 - float((values / shrunk).sum())
        # Rows no more than dimensions leave nothing to judge a small penalty by.
        if free > 0:
            score = max(left, 0.0) * num_rows / free**2
            # Of equal ones the largest: it holds what is not told by the rows nearest to 0.
            best = min(best, (score, -penalty))
    penalty = -best[1]
    matrix = vectors @ (turned / (values + penalty)[:, None])
    return LinearMap(matrix, penalty, best[0] * num_rows / total)
