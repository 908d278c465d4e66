"""Plots of several lines in one box, as SVG text with a legend.

Both axes may be logarithmic. Lines of one colour belong together; the label of each shows when a
pointer rests on it, and in the legend below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bathyscope.pages.plots import ticks
from bathyscope.pages.text import escape, number

_WIDTH, _HEIGHT = 560.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 12.0, 12.0, 40.0
COLOURS = ("#2563eb", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0e7490")
"""Each has a contrast above 4 with white."""


@dataclass(frozen=True)
class Series:
    """One line: points with x and y, a label, the number of its colour, and how it is drawn."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False
    opacity: float = 1.0
    markers: bool = False


class _Scale:
    """From values to the box, linearly or by logarithm."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool) -> None:
        self.log = log
        found = [self.of(value) for value in values]
        low, high = min(found), max(found)
        room = 0.05 * (high - low) or 0.5
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def of(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self.of(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def marks(self) -> list[float]:
        """Values that have a tick."""
        if not self.log:
            return ticks(self.low, self.high)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5)):
            found = [f * 10.0**p for p in powers for f in factors]
            found = [v for v in found if self.low <= math.log10(v) <= self.high]
            if len(found) >= 3:
                return found
        return found or ticks(10.0**self.low, 10.0**self.high)


def series_plot(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = True,
    log_y: bool = False,
) -> str:
    """A `<figure>` with all lines, axes with labels, and a legend."""
    drawn = [each for each in series if each.points]
    if not drawn:
        return f"<figure><figcaption>{escape(title)}: not measured</figcaption></figure>"
    x = _Scale([p[0] for s in drawn for p in s.points], _LEFT, _WIDTH - _RIGHT, log=log_x)
    y = _Scale([p[1] for s in drawn for p in s.points], _HEIGHT - _BOTTOM, _TOP, log=log_y)
    body = _axes(x, y, x_label, y_label) + "".join(_line(each, x, y) for each in drawn)
    spoken = escape(f"{title}: {y_label} against {x_label}, {len(drawn)} lines")
    svg = f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{spoken}">{body}'
    legend = "".join(map(_key, drawn))
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{svg}</svg>"
        f'<ul class="legend">{legend}</ul></figure>'
    )


def _axes(x: _Scale, y: _Scale, x_label: str, y_label: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<path class="rule" d="M{_LEFT} {y(v):.1f}H{right}"/>'
        + _text(_LEFT - 6, y(v) + 4, number(round(v, 12)), "end")
        for v in y.marks()
    ]
    parts += [
        f'<path class="rule" d="M{x(v):.1f} {_TOP}V{bottom}"/>'
        + _text(x(v), bottom + 15, _short(v), "middle")
        for v in x.marks()
    ]
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 6, x_label, "middle"))
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _line(series: Series, x: _Scale, y: _Scale) -> str:
    places = [(x(a), y(b)) for a, b in series.points]
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    style = f'stroke="{_colour(series)}" opacity="{series.opacity:g}"'
    dash = ' stroke-dasharray="5 3"' if series.dashed else ""
    title = f"<title>{escape(series.label)}</title>"
    dots = [
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{_colour(series)}">'
        f"<title>{escape(series.label)}: {number(p)}, {number(q)}</title></circle>"
        for (a, b), (p, q) in zip(places, series.points, strict=True)
    ]
    line = f'<path class="line" {style}{dash} d="{path}">{title}</path>'
    return line + ("".join(dots) if series.markers else "")


def _key(series: Series) -> str:
    style = "dashed" if series.dashed else "solid"
    colour = f"border-top:2px {style} {_colour(series)};opacity:{series.opacity:g}"
    return f'<li><i style="{colour}"></i>{escape(series.label)}</li>'


def _colour(series: Series) -> str:
    return COLOURS[series.colour % len(COLOURS)]


def _short(value: float) -> str:
    """20,000 as 20k and 1,000,000 as 1M: ticks have little room."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return number(value)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
