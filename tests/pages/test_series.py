"""Plots of several lines: where points lie, what labels say, and values of every size."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from bathyscope.pages.series import COLOURS, Series, series_plot


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
    assert f"border-top:2px dashed {COLOURS[1]}" in figure
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
