"""What a plot is made of: series of points with intervals, and reference lines across it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bathyscope.pages.axes import can_show
from bathyscope.pages.data import Number


class Point(NamedTuple):
    """A point that a plot can show. The ends are NaN where there is no interval."""

    x: float
    y: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known."""
        return not math.isnan(self.low)


@dataclass(frozen=True)
class Series:
    """One line: points with x and y, a label, the number of its colour, and how it is drawn.

    A point of which x or y is None or not finite breaks the line. `lows` and `highs` are the ends
    of an interval around each y: a vertical bar at a marker, a band along a line without markers.
    Raises `ValueError` where they do not have one entry per point.
    """

    label: str
    points: Sequence[tuple[Number, Number]]
    colour: int = 0
    dashed: int = 0
    """Number of the pattern of dashes; 0 is a solid line. Dashed lines have hollow markers."""
    opacity: float = 1.0
    markers: bool = False
    marker: int = 0
    """Number of the shape: circle, square, triangle, diamond, triangle downward, plus."""
    lows: Sequence[Number] = ()
    highs: Sequence[Number] = ()
    line: bool = True
    """False: markers alone, as for points that a curve of another series was fitted to."""

    def __post_init__(self) -> None:
        for name, given in (("lows", self.lows), ("highs", self.highs)):
            if len(given) not in (0, len(self.points)) or bool(self.lows) != bool(self.highs):
                raise ValueError(
                    f"The series {self.label!r} got {len(given)} {name} for {len(self.points)} "
                    "points; it wants one low and one high for each point (None where there is "
                    "no interval), or neither."
                )

    def shown(self, *, log_x: bool, log_y: bool) -> list[Point | None]:
        """Each point with its interval; None for one that these axes have no place for."""
        lows = self.lows or [None] * len(self.points)
        highs = self.highs or [None] * len(self.points)
        return [
            Point(float(x), float(y), *_ends(low, high))
            if can_show(x, log=log_x) and can_show(y, log=log_y)
            else None
            for (x, y), low, high in zip(self.points, lows, highs, strict=True)
        ]


@dataclass(frozen=True)
class Reference:
    """A straight line across the plot: a control, or a threshold."""

    label: str
    value: Number
    axis: str = "y"
    """Axis that the value lies on: "y" gives a horizontal line, "x" a vertical one."""

    def __post_init__(self) -> None:
        if self.axis not in ("x", "y"):
            raise ValueError(
                f"The reference line {self.label!r} got axis {self.axis!r}; it wants 'x' or 'y'."
            )


def left_out(
    series: Sequence[Series], references: Sequence[Reference], *, log_x: bool, log_y: bool
) -> str:
    """Sentences on what is not drawn, and why; empty where everything is."""
    missing, refused, cut = 0, 0, 0
    for each in series:
        finite = each.shown(log_x=False, log_y=False)
        kept = each.shown(log_x=log_x, log_y=log_y)
        missing += finite.count(None)
        refused += kept.count(None) - finite.count(None)
        cut += sum(p is not None and p.has_interval and not _holds(p, log_y) for p in kept)
    said = []
    if missing:
        said.append(f"Not drawn: {_points(missing)} not measured.")
    if refused:
        said.append(
            f"Left out: {_points(refused)} at or below zero, which a logarithmic axis cannot show."
        )
    if cut:
        ends = "interval is" if cut == 1 else "intervals are"
        said.append(f"{cut} {ends} cut at the edge: the axis has no place for an end.")
    for line in references:
        if not can_show(line.value, log=log_x if line.axis == "x" else log_y):
            measured = can_show(line.value, log=False)
            reason = "it is at or below zero on a logarithmic axis" if measured else "not measured"
            said.append(f"No line for \u201c{line.label}\u201d: {reason}.")
    return " ".join(said)


def _points(count: int) -> str:
    return "1 point" if count == 1 else f"{count:,} points"


def _holds(point: Point, log: bool) -> bool:
    return can_show(point.low, log=log) and can_show(point.high, log=log)


def _ends(low: Number, high: Number) -> tuple[float, float]:
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return math.nan, math.nan
    return float(low), float(high)
