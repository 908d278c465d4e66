"""Series and reference lines as SVG, in the plot and as keys of its legend.

Colours, dashes and shapes are given by number, so that lines differ in print as on the screen.
"""

from __future__ import annotations

from itertools import groupby

from bathyscope.pages.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale
from bathyscope.pages.lines import Point, Reference, Series
from bathyscope.pages.text import escape, number

COLOURS = ("#2563eb", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0e7490")
"""Each has a contrast above 4 with white."""
DASHES = ("", "6 3", "2 2.5", "10 3 2 3")
REFERENCE_DASHES = ("1 4", "16 5", "16 4 1 4")
# Around 0 0; the circle is an element of its own.
_SHAPES = (
    "",
    "M-3.4-3.4H3.4V3.4H-3.4z",
    "M0-4.4 4.2 3.4H-4.2z",
    "M0-4.8 4.3 0 0 4.8-4.3 0z",
    "M0 4.4 4.2-3.4H-4.2z",
    "M-1.4-4.4H1.4V-1.4H4.4V1.4H1.4V4.4H-1.4V1.4H-4.4V-1.4H-1.4z",
)
_CAP = 3.0


def line(series: Series, x: Scale, y: Scale) -> str:
    """The line of a series, its intervals and its markers."""
    title = f"<title>{escape(series.label)}</title>"
    shown = series.shown(log_x=x.log, log_y=y.log)
    runs = [[p for p in run if p] for there, run in groupby(shown, bool) if there]
    parts = []
    if not series.markers:
        parts += [_band(series, run, x, y) for run in runs]
    elif series.lows:
        parts += [_bar(series, point, x, y) for run in runs for point in run]
    if series.line:
        path = "".join("M" + "L".join(f"{x(p.x):.1f} {y(p.y):.1f}" for p in run) for run in runs)
        parts.append(f'<path class="line" {_stroke(series)} d="{path}">{title}</path>')
    for run in runs:
        # A lone point has no length, so it is marked in any case.
        if series.markers or len(run) == 1 or not series.line:
            parts += [_marker(series, x(p.x), y(p.y), _spoken(series, p)) for p in run]
    return "".join(parts)


def key(series: Series) -> str:
    """A short piece of the line with its marker, and its label."""
    parts = []
    if series.line:
        parts.append(f'<path class="line" {_stroke(series)} d="M1 6H35"/>')
    lone = sum(point is not None for point in series.shown(log_x=False, log_y=False)) == 1
    if series.markers or lone or not series.line:
        parts.append(_marker(series, 18, 6, ""))
    return _entry("".join(parts), series.label)


def reference(given: Reference, place: int, x: Scale, y: Scale) -> str:
    """A straight line across the whole plot."""
    value = float(given.value or 0)
    if given.axis == "x":
        path = f"M{x(value):.1f} {TOP}V{HEIGHT - BOTTOM}"
    else:
        path = f"M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"
    title = f"<title>{escape(given.label)}: {number(given.value)}</title>"
    return f'<path class="reference" {_reference_dash(place)} d="{path}">{title}</path>'


def reference_key(given: Reference, place: int) -> str:
    """A short piece of the line, its label and its value."""
    path = "M18 0V12" if given.axis == "x" else "M1 6H35"
    drawn = f'<path class="reference" {_reference_dash(place)} d="{path}"/>'
    return _entry(drawn, f"{given.label}: {number(given.value)}")


def _entry(drawn: str, label: str) -> str:
    svg = f'<svg viewBox="0 0 36 12" aria-hidden="true">{drawn}</svg>'
    return f"<li>{svg}<span>{escape(label)}</span></li>"


def _band(series: Series, run: list[Point], x: Scale, y: Scale) -> str:
    """The area between the ends along a line, in pieces where some have no interval."""
    parts = []
    for there, piece in groupby(run, lambda point: point.has_interval):
        points = list(piece)
        if there:
            above = [f"{x(p.x):.1f} {y.within(p.high):.1f}" for p in points]
            below = [f"{x(p.x):.1f} {y.within(p.low):.1f}" for p in reversed(points)]
            path = "M" + "L".join([*above, *below]) + "z"
            parts.append(f'<path class="band" fill="{_colour(series)}" opacity="0.16" d="{path}"/>')
    return "".join(parts)


def _bar(series: Series, point: Point, x: Scale, y: Scale) -> str:
    if not point.has_interval:
        return ""
    across, top, bottom = x(point.x), y.within(point.high), y.within(point.low)
    cap = f"{across - _CAP:.1f} {{:.1f}}h{2 * _CAP:g}"
    path = f"M{across:.1f} {top:.1f}V{bottom:.1f}M{cap.format(top)}M{cap.format(bottom)}"
    style = f'stroke="{_colour(series)}" opacity="{series.opacity:g}"'
    return f'<path class="bar" {style} d="{path}"/>'


def _marker(series: Series, x: float, y: float, spoken: str) -> str:
    colour = _colour(series)
    hollow = f'fill="#fff" stroke="{colour}" stroke-width="1.6"'
    style = hollow if series.dashed else f'class="marker" fill="{colour}"'
    title = f"<title>{escape(spoken)}</title>" if spoken else ""
    shape = _SHAPES[series.marker % len(_SHAPES)]
    if not shape:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" {style}>{title}</circle>'
    return f'<path {style} transform="translate({x:.1f} {y:.1f})" d="{shape}">{title}</path>'


def _spoken(series: Series, point: Point) -> str:
    text = f"{series.label}: {number(point.x)}, {number(point.y)}"
    ends = f" [{number(point.low)}, {number(point.high)}]" if point.has_interval else ""
    return text + ends


def _stroke(series: Series) -> str:
    dash = DASHES[series.dashed % len(DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{_colour(series)}" opacity="{series.opacity:g}"{dashes}'


def _reference_dash(place: int) -> str:
    return f'stroke-dasharray="{REFERENCE_DASHES[place % len(REFERENCE_DASHES)]}"'


def _colour(series: Series) -> str:
    return COLOURS[series.colour % len(COLOURS)]
