import numpy as np
import pytest

from bathyscope.errors import FitError, NonFiniteError
from bathyscope.studies.curves import crossing, frontier


def test_the_frontier_holds_what_no_cheaper_point_beats():
    compute = [4.0, 1.0, 3.0, 2.0, 5.0]
    loss = [2.0, 5.0, 3.0, 4.0, 2.5]

    assert frontier(compute, loss).tolist() == [1, 3, 2, 0]


def test_ties_on_the_frontier():
    # Equal compute: the lower loss. Equal loss: the cheaper. Equal in both: the first.
    assert frontier([1, 1, 2, 3, 3], [3, 2, 2, 1, 1]).tolist() == [1, 3]
    assert frontier([7], [1]).tolist() == [0]


def test_a_crossing_between_two_points_is_on_their_straight_line():
    found = crossing([0, 1], [0, 0.2], 0.05)

    assert found.at == pytest.approx(0.25)
    assert (found.side, found.last, found.reason) == ("inside", found.at, "")


def test_a_crossing_on_a_logarithmic_axis():
    found = crossing([1e6, 1e8], [4.0, 2.0], 3.0, log_x=True)

    assert found.at == pytest.approx(1e7)


def test_the_curve_is_monotone_between_monotone_points():
    # A cubic spline through these swings below 0 before the step and meets 0.01 too often.
    x, y = np.arange(6.0), np.array([0, 0, 0, 1, 1, 1.0])
    found = crossing(x, y, 0.01)

    assert 2 < found.at < 3
    assert found.at == found.last
    # Symmetric step: half of it is at its middle.
    assert crossing(x, y, 0.5).at == pytest.approx(2.5)


def test_order_does_not_matter():
    assert crossing([3, 1, 2], [9, 1, 4], 2) == crossing([1, 2, 3], [1, 4, 9], 2)


def test_a_smooth_curve_is_met_closely():
    x = np.linspace(0, 0.9, 19)

    assert crossing(x, x**2, 0.05).at == pytest.approx(0.05**0.5, abs=5e-4)


@pytest.mark.parametrize("log_x", [False, True])
def test_a_point_on_the_level_is_the_crossing(log_x):
    assert crossing([1, 3, 7], [1, 2, 3], 2, log_x=log_x).at == pytest.approx(3)
    assert crossing([1, 3, 7], [1, 2, 3], 3, log_x=log_x).at == 7
    assert crossing([1, 3, 7], [1, 2, 3], 1, log_x=log_x).at == 1


def test_a_curve_that_never_gets_there_names_the_end():
    beyond = crossing([0.0, 0.3, 0.6], [0.0, 0.01, 0.02], 0.05)
    assert (beyond.at, beyond.last, beyond.side) == (None, None, "above")
    assert beyond.reason.endswith("never meets 0.05: if at all, beyond x = 0.6")

    # The whole loss curve lies below the wanted loss: it was reached before the first point.
    before = crossing([1e6, 1e8], [3.0, 2.0], 4.0, log_x=True)
    assert (before.at, before.side) == (None, "below")
    assert "below x = 1e+06" in before.reason

    flat = crossing([1, 2], [3.0, 3.0], 4.0)
    assert (flat.at, flat.side) == (None, "nowhere")


def test_several_crossings_are_told():
    found = crossing([0, 1, 2, 3], [0, 2, 0, 2], 1)

    assert 0 < found.at < 1
    assert found.at + found.last == pytest.approx(3)
    assert "meets 1 at 3 places" in found.reason


def test_bad_curves_are_refused():
    with pytest.raises(FitError, match="one point"):
        crossing([1], [1], 1)
    with pytest.raises(FitError, match="x = 2 comes more than once"):
        crossing([1, 2, 2], [1, 2, 3], 1)
    with pytest.raises(FitError, match=r"x\[0\] is 0"):
        crossing([0, 1], [1, 2], 1.5, log_x=True)
    with pytest.raises(FitError, match="the level is nan"):
        crossing([0, 1], [1, 2], float("nan"))
    with pytest.raises(NonFiniteError, match=r"y\[1\]"):
        crossing([0, 1], [1, np.nan], 1)
    with pytest.raises(FitError, match=r"compute \[2\], loss \[1\]"):
        frontier([1, 2], [1])
