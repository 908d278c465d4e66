"""The axes of a plot: scales, linear or logarithmic, and the ticks and labels along them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeGuard

from bathyscope.pages.data import Number
from bathyscope.pages.plots import ticks
from bathyscope.pages.text import escape, number

WIDTH, HEIGHT = 560.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 12.0, 40.0
_MOST_TICKS = 8
# Of one character of 11 units, on average.
_CHARACTER = 5.5


def can_show(value: Number, *, log: bool) -> TypeGuard[float]:
    """Whether an axis has a place for a value: finite, and above zero if it is logarithmic."""
    return value is not None and math.isfinite(value) and (value > 0 or not log)


class Scale:
    """From values to the box, linearly or by logarithm. It wants one value at least."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool) -> None:
        self.log = log
        found = [self.of(value) for value in values]
        low, high = min(found), max(found)
        # A lone value still needs a range that float64 can tell apart from a point.
        room = 0.05 * (high - low) or (0.5 if log else 0.1 * abs(low) or 0.5)
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def of(self, value: float) -> float:
        """The value, or its logarithm to base ten."""
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self.of(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def within(self, value: float) -> float:
        """The place of a value, or the end of the axis where there is none for it."""
        if not can_show(value, log=self.log):
            return self.end if value == math.inf else self.start
        return self(value)

    def marks(self) -> list[float]:
        """Values that have a tick."""
        if not self.log:
            return ticks(self.low, self.high)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5)):
            found = [float(f"{f}e{p}") for p in powers for f in factors]
            found = [v for v in found if self.low <= math.log10(v) <= self.high]
            if len(found) >= 3:
                return found[:: math.ceil(len(found) / _MOST_TICKS)]
        return ticks(10.0**self.low, 10.0**self.high)


def axes(x: Scale, y: Scale, x_label: str, y_label: str) -> str:
    """Rules, ticks and labels of both axes, as SVG."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    rows, columns = y.marks(), x.marks()
    parts = [
        f'<path class="rule" d="M{LEFT} {y(v):.1f}H{right}"/>'
        + _text(LEFT - 6, y(v) + 4, text, anchor="end")
        for v, text in zip(rows, tick_texts(rows), strict=True)
    ]
    parts += [
        f'<path class="rule" d="M{x(v):.1f} {TOP}V{bottom}"/>'
        + _text(x(v), bottom + 15, text, anchor="middle")
        for v, text in zip(columns, tick_texts(columns), strict=True)
    ]
    middle = (TOP + bottom) / 2
    place = f'x="{(LEFT + right) / 2:.1f}" y="{HEIGHT - 6:.1f}"'
    parts.append(_label(x_label, place, room=right - LEFT))
    place = f'x="12" y="{middle}" transform="rotate(-90 12 {middle})"'
    parts.append(_label(y_label, place, room=bottom - TOP))
    return "".join(parts)


def tick_texts(values: Sequence[float]) -> list[str]:
    """Short texts, with as many digits as tell the values apart."""
    texts = [_short(value) for value in values]
    if len(set(texts)) == len(texts):
        return texts
    step = min(b - a for a, b in pairwise(values))
    digits = min(max(0, -math.floor(math.log10(step) + 1e-9)), 15)
    return [f"{value:,.{digits}f}".replace("-", "−") for value in values]


def _short(value: float) -> str:
    """20,000 as 20k and 1,000,000 as 1M: ticks have little room."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e15:
            return f"{value / size:g}{letter}".replace("-", "−")
    # Steps such as 3 x 0.1 are not exact.
    return number(float(f"{value:.12g}"))


def _label(text: str, place: str, *, room: float) -> str:
    fit = room / (_CHARACTER * max(len(text), 1))
    small = f' style="font-size:{max(11 * fit, 6):.1f}px"' if fit < 1 else ""
    return f'<text {place} text-anchor="middle"{small}>{escape(text)}</text>'


def _text(x: float, y: float, text: str, *, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
