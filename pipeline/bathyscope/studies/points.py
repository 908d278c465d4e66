"""Checks of the points that curves and laws are fitted to."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bathyscope.errors import FitError, NonFiniteError

Floats = NDArray[np.float64]


def columns(**named: ArrayLike) -> list[Floats]:
    """Return the named lists as float64 [points].

    Raises `FitError` where they are no lists of one length, or empty, and `NonFiniteError` that
    names the first NaN or infinity.
    """
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in named.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or shapes == {(0,)}:
        given = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise FitError(f"got {given}; wanted lists of one length with at least one point")
    for name, array in arrays.items():
        bad = np.flatnonzero(~np.isfinite(array))
        if len(bad):
            raise NonFiniteError(
                f"{name}[{bad[0]}] is {array[bad[0]]} ({len(bad)} of {len(array)} are NaN or "
                "infinite); wanted finite numbers: leave out models that failed before fitting"
            )
    return list(arrays.values())


def positive(**named: Floats) -> None:
    """Raise `FitError` where a value is zero or below: the fit takes its logarithm."""
    for name, array in named.items():
        bad = np.flatnonzero(array <= 0)
        if len(bad):
            raise FitError(
                f"{name}[{bad[0]}] is {array[bad[0]]:g} ({len(bad)} of {len(array)} are not above "
                "0); wanted positive numbers, since the fit is made on logarithms"
            )
