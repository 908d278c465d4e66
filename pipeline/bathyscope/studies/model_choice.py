"""Which shape y has against ln N: constant, straight, monotone with a bend, or a parabola.

Least squares on y, with z = ln N:

    constant   y = c
    linear     y = c + b z
    monotone   y = c + a e^(−κ z) = c + a N^−κ    flattens (κ > 0) or steepens (κ < 0)
    quadratic  y = c + b z + d z²

and AICc = n ln(RSS/n) + 2K + 2K(K+1)/(n−K−1) (Hurvich and Tsai 1989), K the fitted parameters and
the variance, n the points. A weight is exp(−ΔAICc/2) over their sum. The bent monotone shape has
as many parameters as the parabola: without it, every curve that flattens would look like a peak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from bathyscope.errors import FitError
from bathyscope.studies.points import Floats

# The bend over the measured range, κ (z_max − z_min): from hardly bent to a step at one end.
_BENDS = np.concatenate([-np.geomspace(20, 0.05, 16), np.geomspace(0.05, 20, 16)])


@dataclass(frozen=True)
class Shape:
    """One least-squares model of y on ln N."""

    name: str
    coefficients: dict[str, float]
    fitted: Floats
    """ŷ [points]."""
    rss: float
    """Σ (y − ŷ)²."""
    num_parameters: int
    """K: coefficients and the variance."""
    aicc: float
    """Infinite where n − K − 1 < 1: more parameters than the points allow."""


def shapes(z: Floats, y: Floats) -> dict[str, Shape]:
    """Fit the four shapes to y [points] on z = ln N [points], centred and scaled inside.

    Coefficients are those of t = (z − mean z) / (max z − min z). Raises `FitError` for fewer than
    three different sizes, through which a parabola is no finding.
    """
    sizes = len(np.unique(z))
    if sizes < 3:
        raise FitError(f"{sizes} different sizes: wanted at least 3 to tell shapes apart")
    t = scaled(z)
    # Residuals below rounding are all alike: the shape with fewer parameters must win there.
    floor = len(y) * (1e-12 * max(float(np.abs(y).max()), np.finfo(float).tiny)) ** 2
    fits: dict[str, Callable[[Floats, Floats], tuple[dict[str, float], Floats]]] = {
        "constant": lambda t, y: _polynomial(t, y, ("c",)),
        "linear": lambda t, y: _polynomial(t, y, ("c", "b")),
        "monotone": _bent,
        "quadratic": lambda t, y: _polynomial(t, y, ("c", "b", "d")),
    }
    found = {}
    for name, fit in fits.items():
        coefficients, fitted = fit(t, y)
        rss = float(((y - fitted) ** 2).sum())
        number = len(coefficients) + 1
        found[name] = Shape(
            name, coefficients, fitted, rss, number, aicc(max(rss, floor), len(y), number)
        )
    return found


def aicc(rss: float, num_points: int, num_parameters: int) -> float:
    """n ln(RSS/n) + 2K + 2K(K+1)/(n−K−1); infinite where n − K − 1 < 1."""
    left = num_points - num_parameters - 1
    if left < 1:
        return float("inf")
    penalty = 2 * num_parameters + 2 * num_parameters * (num_parameters + 1) / left
    return float(num_points * np.log(rss / num_points) + penalty)


def weights(found: dict[str, Shape]) -> dict[str, float]:
    """Akaike weights: exp(−ΔAICc/2) over their sum; all NaN where no shape has a finite AICc."""
    values = np.array([shape.aicc for shape in found.values()])
    if not np.isfinite(values).any():
        return dict.fromkeys(found, float("nan"))
    shares = np.exp(-(values - values.min()) / 2)
    return dict(zip(found, (shares / shares.sum()).tolist(), strict=True))


def scaled(z: Floats) -> Floats:
    """t = (z − mean z) / (max z − min z)."""
    return (z - z.mean()) / np.ptp(z)


def vertex(quadratic: Shape, z: Floats) -> float:
    """The z of the parabola's extremum; NaN for a straight line."""
    bend = quadratic.coefficients["d"]
    if bend == 0:
        return float("nan")
    return float(z.mean() - quadratic.coefficients["b"] / (2 * bend) * np.ptp(z))


def _polynomial(t: Floats, y: Floats, names: tuple[str, ...]) -> tuple[dict[str, float], Floats]:
    design = np.vander(t, len(names), increasing=True)
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    return dict(zip(names, solution.tolist(), strict=True)), design @ solution


def _bent(t: Floats, y: Floats) -> tuple[dict[str, float], Floats]:
    """c + a e^(−κ t): for each κ a straight line in e^(−κ t), so only κ is searched."""
    centred = y - y.mean()

    def unexplained(bend: float) -> float:
        curve = _curve(t, bend)
        return float(centred @ centred - (curve @ centred) ** 2 / (curve @ curve))

    at = int(np.argmin([unexplained(bend) for bend in _BENDS]))
    near = [_BENDS[max(at - 1, 0)], _BENDS[min(at + 1, len(_BENDS) - 1)]]
    # The middle interval runs through κ = 0, which is the straight line: each sign for itself.
    low, high = (near[0], near[1]) if near[0] * near[1] > 0 else _same_sign(near, _BENDS[at])
    found = minimize_scalar(unexplained, bounds=(low, high), method="bounded")
    bend = float(found.x) if found.fun <= unexplained(_BENDS[at]) else float(_BENDS[at])
    curve = _curve(t, bend)
    slope = float(curve @ centred / (curve @ curve))
    fitted = y.mean() + slope * curve
    powers = np.exp(-bend * t)
    return {"c": float(y.mean() - slope * powers.mean()), "a": slope, "kappa": bend}, fitted


def _curve(t: Floats, bend: float) -> Floats:
    powers = np.exp(-bend * t)
    return powers - powers.mean()


def _same_sign(near: list[float], at: float) -> tuple[float, float]:
    return (near[0], at) if at < 0 else (at, near[1])
