"""Plots as SVG text: they print, work without JavaScript and take their colours from the page.

A plot is drawn in a fixed box of 360 x 190 units and scales with its column. Values that were
not measured break a line rather than bend it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bathyscope.pages.data import Histogram, Number
from bathyscope.pages.text import escape, number

MAX_POINTS = 400

_WIDTH, _HEIGHT = 360.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 8.0, 10.0, 26.0
# A column that spans more than this factor, all positive, is drawn on a log axis.
_LOG_SPAN = 100.0


def curve(title: str, steps: Sequence[int], *, values: Sequence[Number]) -> str:
    """One training curve as a `<figure>`; a log axis is chosen, and named, for wide spans."""
    finite = [v for v in values if v is not None and math.isfinite(v)]
    if not finite:
        return _figure(title, caption='<span class="missing">not measured</span>', svg="")
    logarithmic = min(finite) > 0 and max(finite) / min(finite) > _LOG_SPAN
    points = [
        (float(step), _scaled(value, logarithmic=logarithmic))
        for step, value in zip(steps, values, strict=True)
    ]
    low, high = _padded(*_range([y for _, y in points if y is not None]))
    first, last = float(steps[0]), float(max(steps[-1], steps[0] + 1))
    x = _Axis(first, last, start=_LEFT, end=_WIDTH - _RIGHT)
    y = _Axis(low, high, start=_HEIGHT - _BOTTOM, end=_TOP)
    marks = _y_ticks(y, logarithmic=logarithmic) + _x_ticks(x)
    body = f'<path class="line" d="{_path(thin(points), x=x, y=y)}"/>'
    spoken = f"{title}: {number(finite[0])} at first, {number(finite[-1])} at last"
    caption = f"last {number(finite[-1])}" + (" · log axis" if logarithmic else "")
    return _figure(title, caption=caption, svg=_svg(spoken, body=marks + body))


def density_plot(densities: Histogram, *, num_never: int | None) -> str:
    """Latents per bin of log10 density, with the latents that never fired as a bar apart."""
    highest = max([*densities.counts, num_never or 0, 1])
    y = _Axis(0.0, _padded(0.0, float(highest))[1], start=_HEIGHT - _BOTTOM, end=_TOP)
    x = _Axis(densities.edges[0], densities.edges[-1], start=_LEFT + 58, end=_WIDTH - _RIGHT)
    bars = [
        _bar(x(left), x(right), count=count, y=y, label=f"10^{left:.2f} to 10^{right:.2f}")
        for left, right, count in zip(
            densities.edges[:-1], densities.edges[1:], densities.counts, strict=True
        )
    ]
    if num_never is not None:
        bars.append(
            _bar(_LEFT + 6, _LEFT + 26, count=num_never, y=y, label="never", kind="bar never")
        )
        bars.append(_tick_text(_LEFT + 16, _HEIGHT - 10, "never", anchor="middle"))
    decades = range(math.ceil(densities.edges[0]), math.floor(densities.edges[-1]) + 1)
    every = max(1, math.ceil(len(decades) / 7))
    labels = [
        _tick_text(x(d), _HEIGHT - 10, f"1e{d}".replace("-", "−"), anchor="middle")
        for d in decades
        if d % every == 0
    ]
    spoken = f"Density histogram of {sum(densities.counts) + (num_never or 0):,} latents"
    svg = _svg(spoken, body=_y_ticks(y, logarithmic=False) + "".join(bars + labels))
    return _figure("latents per density", caption="share of tokens, log axis", svg=svg)


def thin(
    points: Sequence[tuple[float, float | None]], *, max_points: int = MAX_POINTS
) -> list[tuple[float, float | None]]:
    """At most `max_points` points: the lowest and highest of each stretch, so spikes survive.

    A stretch holding a value that was not measured keeps one such gap.
    """
    if len(points) <= max_points:
        return list(points)
    width = math.ceil(3 * len(points) / max_points)
    kept: list[tuple[float, float | None]] = []
    for start in range(0, len(points), width):
        stretch = range(start, min(start + width, len(points)))
        measured = [(value, i) for i in stretch if (value := points[i][1]) is not None]
        chosen = {min(measured)[1], max(measured)[1]} if measured else set()
        chosen |= set([i for i in stretch if points[i][1] is None][:1])
        kept.extend(points[i] for i in sorted(chosen))
    return kept


def ticks(low: float, high: float, *, around: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) between low and high."""
    rough = (high - low) / around
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.8)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


class _Axis:
    """A linear map from values to the box."""

    def __init__(self, low: float, high: float, *, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _scaled(value: Number, *, logarithmic: bool) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return math.log10(value) if logarithmic else float(value)


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _padded(low: float, high: float) -> tuple[float, float]:
    if high == low:
        # A constant column still needs a range that float64 can tell apart from a point.
        half = abs(low) * 0.1 or 0.5
        return low - half, high + half
    room = 0.06 * (high - low)
    return (low if low == 0 else low - room), high + room


def _path(points: Sequence[tuple[float, float | None]], *, x: _Axis, y: _Axis) -> str:
    parts: list[str] = []
    pen = "M"
    for step, value in points:
        if value is None:
            pen = "M"
            continue
        parts.append(f"{pen}{x(step):.1f} {y(value):.1f}")
        pen = "L"
    # A lone point has no length: a line to itself shows as a dot with round caps.
    return "".join(parts) + ("h0" if parts else "")


def _bar(left: float, right: float, *, count: int, y: _Axis, label: str, kind: str = "bar") -> str:
    top = y(float(count))
    width = max(right - left - 1, 0.5)
    title = f"<title>{escape(label)}: {count:,} latents</title>"
    box = f'x="{left + 0.5:.1f}" y="{top:.1f}" width="{width:.1f}" height="{y.start - top:.1f}"'
    return f'<rect class="{kind}" {box}>{title}</rect>'


def _y_ticks(y: _Axis, *, logarithmic: bool) -> str:
    parts = []
    for value in ticks(y.low, y.high):
        if logarithmic and value != int(value):
            continue
        height = y(value)
        parts.append(
            f'<path class="rule" d="M{_LEFT:.1f} {height:.1f}H{_WIDTH - _RIGHT:.1f}"/>'
            + _tick_text(
                _LEFT - 6,
                height + 3.5,
                number(10.0**value if logarithmic else round(value, 12)),
                anchor="end",
            )
        )
    return "".join(parts)


def _x_ticks(x: _Axis) -> str:
    whole = [value for value in ticks(x.low, x.high) if value == int(value)]
    texts = [
        _tick_text(x(v), _HEIGHT - 10, number(int(v)), anchor="end" if x(v) > 335 else "middle")
        for v in whole
    ]
    return "".join(texts)


def _tick_text(x: float, y: float, text: str, *, anchor: str) -> str:
    return (
        f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _svg(spoken: str, *, body: str) -> str:
    box = f'viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}"'
    return f'<svg {box} role="img" aria-label="{escape(spoken)}">{body}</svg>'


def _figure(title: str, *, caption: str, svg: str) -> str:
    heading = (
        f'<figcaption><b>{escape(title)}</b> <span class="quiet">{caption}</span></figcaption>'
    )
    return f'<figure class="plot">{heading}{svg}</figure>'
