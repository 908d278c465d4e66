"""What directions that were drawn at random would show, and what no arrangement can beat.

For n directions drawn uniformly from the unit sphere of d dimensions, t = cos² of two of them is
Beta(1/2, (d-1)/2), and given one direction its cosines with the others are independent. So

    E cos²           = 1/d
    E |cos|          = Γ(d/2) / (√π Γ((d+1)/2))        → √(2/(πd)); the limit is low by 1/(4d)
    E max_{j≠i}|cos| = ∫₀¹ 1 - F(t)^(n-1) dt            F the distribution of |cos|
                     ≤ √(2 ln(2n) / d)                  (union bound, a little loose)

The bound of Welch (1974) holds for any n ≥ d unit vectors:

    max_{i≠j} |cos|² ≥ mean_{i≠j} cos² ≥ (n-d) / (d(n-1))
"""

from __future__ import annotations

import math

import numpy as np
from scipy.integrate import trapezoid
from scipy.special import betaincc, betainccinv

_POINTS = 4001


def squared_overlap(width: int) -> float:
    """E cos² of two random directions, 1/d."""
    _check(width)
    return 1 / width


def absolute_overlap(width: int) -> float:
    """E |cos| of two random directions; about √(2/(πd))."""
    _check(width)
    return math.exp(math.lgamma(width / 2) - math.lgamma((width + 1) / 2)) / math.sqrt(math.pi)


def row_maximum(num_rows: int, width: int) -> float:
    """E max_{j≠i} |cos| of one random direction with n - 1 others; NaN for n = 1."""
    _check(width, num_rows)
    if num_rows == 1:
        return math.nan
    if width == 1:
        return 1.0
    others, shape = num_rows - 1, (0.5, (width - 1) / 2)
    # The integrand is 1 up to `start` (F^(n-1) < e^-40) and 0 from `end` on.
    start, end = (math.sqrt(betainccinv(*shape, min(1, q / others))) for q in (40, 1e-14))
    grid = np.linspace(start, end, _POINTS)
    with np.errstate(divide="ignore"):
        below = np.exp(others * np.log1p(-betaincc(*shape, grid**2)))
    return start + float(trapezoid(1 - below, grid))


def row_maximum_bound(num_rows: int, width: int) -> float:
    """min(1, √(2 ln(2n)/d)), the usual upper bound of `row_maximum`."""
    _check(width, num_rows)
    return min(1.0, math.sqrt(2 * math.log(2 * num_rows) / width))


def welch(num_rows: int, width: int) -> float:
    """The least that the largest |cos| can be, √((n-d)/(d(n-1))); 0 where n ≤ d.

    Its square is the least that the mean of cos² over pairs can be.
    """
    _check(width, num_rows)
    if num_rows <= max(1, width):
        return 0.0
    return math.sqrt((num_rows - width) / (width * (num_rows - 1)))


def _check(width: int, num_rows: int = 1) -> None:
    if width < 1 or num_rows < 1:
        raise ValueError(f"{num_rows} directions of width {width}: wanted at least 1 of each")
