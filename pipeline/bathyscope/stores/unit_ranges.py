"""Sets of units as sorted ranges [start, stop), which stay short where units come in order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Ranges = list[list[int]]


def add(ranges: Ranges, units: Iterable[int]) -> Ranges:
    """The ranges with these units."""
    found: Ranges = []
    for start, stop in sorted([*ranges, *([u, u + 1] for u in units)]):
        if found and start <= found[-1][1]:
            found[-1][1] = max(found[-1][1], stop)
        else:
            found.append([start, stop])
    return found


def holds(ranges: Ranges, unit: int) -> bool:
    """Whether a unit is in the ranges."""
    place = bisect_right(ranges, unit, key=lambda r: r[0])
    return place > 0 and unit < ranges[place - 1][1]


def as_array(ranges: Ranges) -> npt.NDArray[np.int64]:
    """The units, sorted."""
    parts = [np.arange(start, stop, dtype=np.int64) for start, stop in ranges]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
