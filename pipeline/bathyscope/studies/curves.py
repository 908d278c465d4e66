"""Measured curves: their lower envelope, and where they cross a level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

from bathyscope.errors import FitError
from bathyscope.studies.points import Floats, columns, positive

Side = Literal["inside", "below", "above", "nowhere"]


def frontier(compute: ArrayLike, loss: ArrayLike) -> NDArray[np.intp]:
    """Return the indices of the points that no cheaper or equally cheap point matches.

    Both are [points]; the indices come in order of rising compute, thus of strictly falling loss.
    Of points with equal compute the one with the lowest loss stays, of equal points the first.
    L(C) is fitted to these points.
    """
    costs, losses = columns(compute=compute, loss=loss)
    order = np.lexsort((losses, costs))
    lowest = np.minimum.accumulate(losses[order])
    better = np.concatenate([[True], lowest[1:] < lowest[:-1]])
    return order[better]


@dataclass(frozen=True)
class Crossing:
    """Where a curve meets a level."""

    at: float | None
    """The smallest x at which it does; None where it never does."""
    side: Side
    """Inside the measured x; below or above them, by the end that is nearer to the level;
    nowhere for a curve whose ends are equally far."""
    last: float | None
    """The largest x at which it does; another than `at` where the curve is not monotone."""
    reason: str
    """What a reader must know: that it never meets the level, or more than once; else empty."""


def crossing(x: ArrayLike, y: ArrayLike, level: float, *, log_x: bool = False) -> Crossing:
    """Return where the curve through (x, y) [points] meets y = level, by interpolation in x.

    Between points the curve is a piecewise cubic that is monotone wherever the points are
    (PCHIP, Fritsch and Carlson 1980; straight between two points), in ln x with `log_x`. Nothing is
    extrapolated. Uses: the share of weights removable at 0.05 nats, or the tokens after which an
    earlier checkpoint had that loss. Raises `FitError` for fewer than two points, repeated x
    (average seeds first), and x <= 0 with `log_x`.
    """
    places, values = columns(x=x, y=y)
    order = np.argsort(places, kind="stable")
    places, values = places[order], values[order]
    _check(places, level, log_x=log_x)
    roots = _roots(places, values - level, log_x=log_x)
    if not roots:
        return _missed(places, values, level)
    first, last = roots[0], roots[-1]
    many = f"the curve meets {level:g} at {len(roots)} places, from {first:.6g} to {last:.6g}"
    return Crossing(first, "inside", last, many if len(roots) > 1 else "")


def _check(places: Floats, level: float, *, log_x: bool) -> None:
    if not np.isfinite(level):
        raise FitError(f"the level is {level}; wanted a finite number")
    if len(places) < 2:
        raise FitError("one point has no curve: wanted at least two different x")
    repeated = places[1:][places[1:] == places[:-1]]
    if len(repeated):
        raise FitError(
            f"x = {repeated[0]:g} comes more than once: average its y (over seeds) first, or give "
            "one curve per seed"
        )
    if log_x:
        positive(x=places)


def _roots(places: Floats, above: Floats, *, log_x: bool) -> list[float]:
    """Every x at which the curve of y − level [points] is 0, in rising order."""
    axis = np.log(places) if log_x else places
    curve = PchipInterpolator(axis, above)
    found = []
    for i in range(len(axis)):
        if above[i] == 0:
            found.append(float(places[i]))
        elif i + 1 < len(axis) and above[i] * above[i + 1] < 0:
            root = float(brentq(curve, axis[i], axis[i + 1], xtol=1e-14, rtol=1e-14))
            found.append(float(np.exp(root)) if log_x else root)
    return found


def _missed(places: Floats, values: Floats, level: float) -> Crossing:
    to_first, to_last = abs(values[0] - level), abs(values[-1] - level)
    reach = f"y goes from {values.min():.6g} to {values.max():.6g} and never meets {level:g}"
    if to_first == to_last:
        return Crossing(None, "nowhere", None, f"{reach}: neither end is nearer to it")
    if to_last < to_first:
        return Crossing(None, "above", None, f"{reach}: if at all, beyond x = {places[-1]:.6g}")
    return Crossing(None, "below", None, f"{reach}: if at all, below x = {places[0]:.6g}")
