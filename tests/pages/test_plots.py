import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from bathyscope.pages.data import Histogram
from bathyscope.pages.plots import curve, density_plot, thin, ticks


def _path(figure: str) -> str:
    match = re.search(r'class="line" d="([^"]*)"', figure)
    assert match is not None
    return match.group(1)


def test_a_curve_runs_from_corner_to_corner() -> None:
    # Values 0 and 1: 6 % of room above, none below zero. Box 50..352 by 164..10.
    numbers = re.findall(r"[\d.]+", _path(curve("FVU", [0, 10], values=[0.0, 1.0])))
    assert numbers[:4] == ["50.0", "164.0", "352.0", f"{164 - 154 / 1.06:.1f}"]


def test_what_was_not_measured_breaks_the_line() -> None:
    path = _path(curve("loss", [0, 1, 2, 3, 4], values=[1.0, None, 2.0, math.nan, 3.0]))
    assert path.count("M") == 3
    assert path.count("L") == 0


def test_a_curve_without_any_value_says_so() -> None:
    figure = curve("auxiliary <loss>", [0, 1], values=[None, math.nan])
    assert "not measured" in figure
    assert "auxiliary &lt;loss&gt;" in figure
    assert "<svg" not in figure


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.0], [0.0, 0.0], [1e300, 1e300], [-1e-9, -1e-9]])
def test_constant_and_single_values_are_drawn_inside_the_box(values: list[float]) -> None:
    figure = curve("x", list(range(len(values))), values=values)
    assert "nan" not in figure
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", _path(figure))]
    assert all(10 <= height <= 164 for height in heights)


def test_a_wide_span_takes_a_log_axis_of_whole_decades() -> None:
    figure = curve("norm", [0, 1, 2], values=[1000.0, 10.0, 1.0])
    assert "log axis" in figure
    assert re.findall(r'text-anchor="end">([^<]+)<', figure)[:4] == ["1", "10", "100", "1,000"]
    assert "log axis" not in curve("norm", [0, 1], values=[100.0, 1.0])
    assert "log axis" not in curve("norm", [0, 1], values=[1000.0, 0.0])


def test_thinning_keeps_spikes_gaps_and_order() -> None:
    points: list[tuple[float, float | None]] = [(float(i), 0.0) for i in range(100_000)]
    points[51_234] = (51_234.0, 9.0)
    points[70_000] = (70_000.0, None)
    kept = thin(points)
    assert len(kept) <= 400
    assert (51_234.0, 9.0) in kept
    assert (70_000.0, None) in kept
    assert [step for step, _ in kept] == sorted(step for step, _ in kept)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 3000, [0, 1000, 2000, 3000]),
        (-6, 0, [-6, -4, -2, 0]),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(wanted)


def test_bars_are_as_high_as_their_counts() -> None:
    plot = density_plot(Histogram([-3.0, -2.0, -1.0], [10, 5]), num_never=20)
    tree = ElementTree.fromstring(plot)
    heights = [float(rect.attrib["height"]) for rect in tree.iter("rect")]
    assert heights[0] / heights[2] == pytest.approx(0.5, abs=0.01)
    assert heights[1] / heights[2] == pytest.approx(0.25, abs=0.01)
    assert "never: 20 latents" in plot


def test_densities_that_are_all_zero_still_draw() -> None:
    plot = density_plot(Histogram([-3.0, -2.0], [0]), num_never=None)
    assert "never" not in plot
    assert 'height="0.0"' in plot
