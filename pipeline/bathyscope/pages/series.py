"""Plots of several lines in one box, as SVG text with a legend.

Both axes may be logarithmic. Lines of one colour belong together; the label of each shows when a
pointer rests on it, and in the legend below. In print without colours, lines differ by dashes and
by the shapes of their markers. What cannot be drawn is left out, and said below the plot.
"""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.pages.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, axes, can_show
from bathyscope.pages.lines import Reference, Series, left_out
from bathyscope.pages.strokes import COLOURS, key, line, reference, reference_key
from bathyscope.pages.text import escape

__all__ = ["COLOURS", "Reference", "Series", "series_plot"]


def series_plot(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = True,
    log_y: bool = False,
    references: Sequence[Reference] = (),
    note: str = "",
) -> str:
    """A `<figure>` with all lines, axes with labels, and a legend."""
    drawn = [each for each in series if any(each.shown(log_x=log_x, log_y=log_y))]
    crossing = [r for r in references if can_show(r.value, log=log_x if r.axis == "x" else log_y)]
    said = left_out(series, references, log_x=log_x, log_y=log_y)
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in (note, said) if text)
    if not drawn:
        nothing = "nothing to draw" if "logarithmic" in said else "not measured"
        return f"<figure><figcaption>{escape(title)}: {nothing}</figcaption>{notes}</figure>"
    x, y = _scales(drawn, crossing, log_x=log_x, log_y=log_y)
    straight = "".join(reference(each, i, x, y) for i, each in enumerate(crossing))
    body = axes(x, y, x_label, y_label) + straight + "".join(line(each, x, y) for each in drawn)
    spoken = escape(f"{title}: {y_label} against {x_label}, {len(drawn)} lines")
    svg = f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{spoken}">{body}'
    legend = "".join(map(key, drawn))
    legend += "".join(reference_key(each, i) for i, each in enumerate(crossing))
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><div class="box">{svg}</svg></div>'
        f'<ul class="legend">{legend}</ul>{notes}</figure>'
    )


def _scales(
    drawn: Sequence[Series], crossing: Sequence[Reference], *, log_x: bool, log_y: bool
) -> tuple[Scale, Scale]:
    """Both axes hold every point, every end of an interval, and every reference line."""
    across: list[float] = [float(r.value or 0) for r in crossing if r.axis == "x"]
    up: list[float] = [float(r.value or 0) for r in crossing if r.axis == "y"]
    for series in drawn:
        for point in series.shown(log_x=log_x, log_y=log_y):
            if point is not None:
                across.append(point.x)
                up += [v for v in (point.y, point.low, point.high) if can_show(v, log=log_y)]
    x = Scale(across, LEFT, WIDTH - RIGHT, log=log_x)
    return x, Scale(up, HEIGHT - BOTTOM, TOP, log=log_y)
