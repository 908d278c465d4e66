"""Plots of several lines: where points lie, what labels say, and values of every size."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from bathyscope.pages.axes import Scale, tick_texts
from bathyscope.pages.series import COLOURS, Reference, Series, series_plot


def plot(*series: Series, **given: bool) -> str:
    return series_plot("Losses", series, x_label="tokens", y_label="nats", **given)


def path(figure: str) -> list[tuple[float, float]]:
    found = re.search(r'<path class="line"[^>]* d="M([^"]*)"', figure)
    assert found is not None
    return [(float(x), float(y)) for x, y in (p.split() for p in found[1].split("L"))]


def test_points_of_equal_ratio_lie_at_equal_distances_on_a_log_axis() -> None:
    points = path(plot(Series("a", [(1, 0.0), (10, 1.0), (100, 2.0)])))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x2 - x1 == pytest.approx(x1 - x0, abs=0.11)
    # The box is 56..548 by 280..12, and 5 % of the range is left free at every end.
    assert (x0, y0) == (
        pytest.approx(56 + 492 * 0.05 / 1.1, abs=0.1),
        pytest.approx(280 - 268 / 22, abs=0.1),
    )
    assert y0 > y1 > y2
    linear = path(plot(Series("a", [(1, 0.0), (10, 1.0), (100, 2.0)]), log_x=False))
    assert linear[1][0] - linear[0][0] < (linear[2][0] - linear[0][0]) / 10


def test_every_line_has_its_colour_its_label_and_a_key_and_text_is_escaped() -> None:
    lines = [
        Series("<one>", [(1, 1.0), (2, 2.0)]),
        Series("two", [(1, 3.0)], colour=1, dashed=True, markers=True),
    ]
    figure = plot(*lines)
    assert "<one>" not in figure
    assert figure.count("&lt;one&gt;") == 2
    assert figure.count(COLOURS[0]) == 2
    # The line and its key in the legend have the same dashes.
    assert figure.count(f'stroke="{COLOURS[1]}" opacity="1" stroke-dasharray="6 3"') == 2
    assert "<circle" in figure
    ElementTree.fromstring(figure)


def test_ticks_are_short() -> None:
    figure = plot(Series("a", [(900, 1.0), (2_100_000, 2.0)]))
    assert re.findall(r'text-anchor="middle">([^<]*)</text>', figure)[:4] == [
        "1k", "10k", "100k", "1M",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "points", [[(5.0, 2.0)], [(1.0, 2.0), (9.0, 2.0)], [(1e-3, 1e9), (1e12, 1e-9)]]
)
def test_single_and_extreme_points_are_drawn_inside_the_box(
    points: list[tuple[float, float]],
) -> None:
    figure = plot(Series("a", points))
    assert "nan" not in figure
    for x, y in path(figure):
        assert 56 <= x <= 548
        assert 12 <= y <= 280


def test_without_points_it_says_so() -> None:
    assert "not measured" in plot(Series("a", []))


def bars(figure: str) -> list[tuple[float, float]]:
    """Upper and lower end of every vertical bar."""
    found = re.findall(r'class="bar"[^>]* d="M[\d.]+ ([\d.]+)V([\d.]+)M', figure)
    return [(float(top), float(bottom)) for top, bottom in found]


def test_intervals_are_bars_at_markers_and_the_axis_holds_them() -> None:
    # With ends 0 and 4 and 5 % of room, 0 lies at 280 - 268/22 and 4 at 12 + 268/22.
    figure = plot(Series("a", [(1, 1.0), (10, 3.0)], markers=True, lows=[0, 2], highs=[2, 4]))
    (_, lowest), (highest, middle) = bars(figure)
    assert lowest == pytest.approx(280 - 268 / 22, abs=0.1)
    assert highest == pytest.approx(12 + 268 / 22, abs=0.1)
    assert middle == pytest.approx((12 + 280) / 2, abs=0.1)
    assert "<title>a: 10, 3 [2, 4]</title>" in figure


def test_intervals_along_a_line_without_markers_are_a_band_in_pieces() -> None:
    points = [(10.0**i, 2.0) for i in range(5)]
    lows = [1.0, 1.0, None, 1.0, 1.0]
    figure = plot(Series("fit", points, lows=lows, highs=[3.0] * 5))
    assert figure.count('class="band"') == 2
    assert figure.count('class="bar"') == 0
    ElementTree.fromstring(figure)


def test_a_series_without_one_end_per_point_is_refused() -> None:
    for ends in ({"lows": [1.0]}, {"lows": [1.0], "highs": [2.0]}, {"highs": [1.0, 2.0]}):
        with pytest.raises(ValueError, match=r"'a' got \d .* 2 points"):
            Series("a", [(1, 1.0), (2, 2.0)], **ends)


def test_a_missing_point_breaks_the_line_and_is_said() -> None:
    gone = [(1, 1.0), (2, 1.0), (3, None), (4, math.nan), (5, 1.0), (6, 1.0)]
    figure = plot(Series("a", gone))
    line = re.search(r'class="line"[^>]* d="([^"]*)"', figure)
    assert line is not None
    assert line[1].count("M") == 2
    assert line[1].count("L") == 2
    assert "Not drawn: 2 points not measured." in figure
    assert "nan" not in figure.lower()


def test_what_a_logarithmic_axis_cannot_show_is_left_out_and_said() -> None:
    line = Series("a", [(1, 1.0), (0, 1.0), (2, -3.0), (4, 2.0)], markers=True,
                  lows=[-1, 1, 1, 1], highs=[2, 2, 2, 3])  # fmt: skip
    figure = plot(line, log_y=True)
    assert "Left out: 2 points at or below zero, which a logarithmic axis cannot show." in figure
    assert "1 interval is cut at the edge" in figure
    # The lower end at -1 is drawn to the bottom of the box.
    assert bars(figure)[0][1] == 280
    assert "Left out" not in plot(line, log_x=False)
    assert "Losses: nothing to draw" in plot(Series("a", [(1, 0.0)]), log_y=True)


def test_a_lone_point_is_marked() -> None:
    # In the plot and in its key.
    assert plot(Series("a", [(5.0, 2.0)])).count("<circle") == 2
    assert plot(Series("a", [(1, 1.0), (2, 2.0)])).count("<circle") == 0


def test_reference_lines_cross_the_plot_and_widen_its_axes() -> None:
    lines = [Reference("PCA <k>", 3.0), Reference("limit", 100, axis="x"), Reference("gone", None)]
    figure = series_plot(
        "t", [Series("a", [(1, 1.0), (10, 2.0)])], x_label="x", y_label="y", references=lines
    )
    paths = re.findall(r'class="reference"[^>]*stroke-dasharray="([^"]*)" d="([^"]*)"', figure)
    across = dict(path for path in paths if path[1] not in ("M1 6H35", "M18 0V12"))
    assert list(across.values()) == [
        f"M56.0 {12 + 268 / 22:.1f}H548.0", f"M{548 - 492 / 22:.1f} 12.0V280.0",
    ]  # fmt: skip
    assert len(across) == 2
    assert "PCA &lt;k&gt;: 3</span>" in figure
    assert "No line for “gone”: not measured." in figure
    with pytest.raises(ValueError, match="'z'"):
        Reference("a", 1.0, axis="z")


def test_lines_differ_without_colours() -> None:
    lines = [
        Series(f"{i}", [(1, 1.0), (2, 2.0)], dashed=d, marker=i, markers=True)
        for i in range(6)
        for d in range(2)
    ]
    figure = plot(*lines)
    assert len(set(re.findall(r'transform="[^"]*" d="([^"]*)"', figure))) == 5
    assert 'fill="#fff"' in figure
    keys = re.findall(r"<li>(.*?)<span>", figure)
    assert len({re.sub(r"#[0-9a-f]{6}", "", key) for key in keys}) == 12


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.30000000000000004, 0.4], ["0.3", "0.4"]),
        ([3.4501, 3.4502, 3.4503], ["3.4501", "3.4502", "3.4503"]),
        ([-2_000_000.0, 0.0, 2e6], ["−2M", "0", "2M"]),
        ([1e-9, 1e-8], ["1e−9", "1e−8"]),
    ],
)
def test_texts_of_ticks_differ(values: list[float], wanted: list[str]) -> None:
    assert tick_texts(values) == wanted


@pytest.mark.parametrize("high", [3.6, 30.0, 3e3, 3e9, 3e40])
def test_a_logarithmic_axis_has_some_ticks_and_not_too_many(high: float) -> None:
    marks = Scale([3.1, high], 0, 500, log=True).marks()
    assert 2 <= len(marks) <= 8
    assert all(0 <= Scale([3.1, high], 0, 500, log=True)(mark) <= 500 for mark in marks)
