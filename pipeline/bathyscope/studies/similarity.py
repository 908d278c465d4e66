"""Linear CKA of two models on the same rows: biased, and debiased by the unbiased HSIC.

Kornblith et al. 2019 (arXiv:1905.00414), with columns centred:

    CKA = ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖)

Where rows are not many more than columns it is high for unrelated data: d/(n + d) for independent
Gaussians. The debiased form takes HSIC₁ of Song et al. 2012 instead of HSIC; with K = XXᵀ and
L = YYᵀ whose diagonals are set to 0,

    HSIC₁ = [tr(KL) + 1ᵀK1·1ᵀL1 / ((n-1)(n-2)) - 2·1ᵀKL1 / (n-2)] / (n(n-3))
    CKA₁  = HSIC₁(X,Y) / √(HSIC₁(X,X) HSIC₁(Y,Y))

For the linear kernel each term is a sum over rows, so the exact value of all rows (no average over
minibatches, as in Nguyen et al. 2021) comes from one pass:

    tr(KL)  = ‖Σxyᵀ‖² - Σ‖x‖²‖y‖²
    1ᵀK1    = ‖Σx‖² - Σ‖x‖²
    1ᵀKL1   = Σx·(Σxyᵀ)·Σy - Σx·Σx‖y‖² - Σy·Σy‖x‖² + Σ‖x‖²‖y‖²

HSIC₁ does not change when all rows are shifted, so the shift of the sums does not matter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from bathyscope.studies.paired_moments import PairedMoments


class Similarity(NamedTuple):
    """Linear CKA of all rows; NaN where one side does not vary."""

    cka: float
    """0 to 1; depends on the number of rows."""
    debiased_cka: float
    """About 0 for unrelated rows, a little below included; 1 for a rotated or scaled copy.
    NaN where the rows are too few to tell a side's variance from 0."""
    num_rows: int


def linear_cka(moments: PairedMoments) -> Similarity:
    """Return both forms of CKA. Raises `ValueError` for fewer than 4 rows, which HSIC₁ needs."""
    n = moments.num_rows
    if n < 4:
        raise ValueError(f"{n} rows were seen: debiased CKA needs at least 4")
    norms = {name: float(moments.scatter(name).norm()) for name in ("xx", "yy", "xy")}
    unbiased = {name: _hsic1(moments, *name) for name in ("xx", "yy", "xy")}
    if not all(_varies(moments, side) for side in "xy"):
        return Similarity(math.nan, math.nan, n)
    square = unbiased["xx"] * unbiased["yy"]
    defined = unbiased["xx"] > 0 and unbiased["yy"] > 0
    return Similarity(
        cka=norms["xy"] ** 2 / (norms["xx"] * norms["yy"]),
        debiased_cka=unbiased["xy"] / math.sqrt(square) if defined else math.nan,
        num_rows=n,
    )


def gaussian_floor(num_rows: int, width: int) -> float:
    """Return d/(n + d): the biased CKA of independent white Gaussian rows, both of `width`."""
    return width / (num_rows + width)


def _hsic1(moments: PairedMoments, a: str, b: str) -> float:
    n, sums = moments.num_rows, moments.sums
    cross, norms = sums[a + b], sums[f"norms_{a}{b}"]
    trace = cross.square().sum() - norms
    ones_a = sums[a].square().sum() - sums[f"norm_{a}"]
    ones_b = sums[b].square().sum() - sums[f"norm_{b}"]
    middle = sums[a] @ cross @ sums[b] + norms
    middle = middle - sums[a] @ sums[f"{a}_norm_{b}"] - sums[b] @ sums[f"{b}_norm_{a}"]
    total = trace + ones_a * ones_b / ((n - 1) * (n - 2)) - 2 * middle / (n - 2)
    return float(total) / (n * (n - 3))


def _varies(moments: PairedMoments, side: str) -> bool:
    spread = float(moments.scatter(side * 2).trace())
    return spread > 1e-12 * float(moments.sums[f"norm_{side}"])
