import math

import numpy as np
import pytest

from bathyscope.errors import FitError
from bathyscope.studies.intervals import bootstrap


def mean_of(values):
    return lambda rows: {"mean": float(np.mean(values[rows]))}


def test_few_groups_are_left_out_in_turn():
    # For a mean the jackknife is s/√n: 0, 3, 6 have s = 3; t of 2 degrees of freedom is 4.3027.
    found = bootstrap(mean_of(np.array([0.0, 3.0, 6.0])), ["a", "b", "c"], seed=0)

    half = 4.30265 * 3 / math.sqrt(3)
    assert (found.method, found.num_resamples) == ("jackknife", 3)
    assert found["mean"].estimate == 3.0
    assert (found["mean"].low, found["mean"].high) == pytest.approx((3 - half, 3 + half), rel=1e-5)


def test_one_group_has_no_interval_and_says_so():
    found = bootstrap(mean_of(np.array([1.0, 2.0])), [7, 7], seed=0)

    assert (found.method, found["mean"].estimate) == ("none", 1.5)
    assert math.isnan(found["mean"].low)
    assert "1 independent groups" in found.note
    assert found.record()["of"]["mean"] == {"estimate": 1.5, "low": None, "high": None}


def test_as_many_parameters_as_groups_leave_no_interval():
    found = bootstrap(mean_of(np.arange(3.0)), [0, 1, 2], seed=0, parameters=3)

    assert found.method == "none"
    assert "0 degrees of freedom" in found.note


def test_points_of_a_group_stay_together():
    seen = []

    def statistic(rows):
        seen.append(sorted(rows))
        return {"n": float(len(rows))}

    bootstrap(statistic, [0, 1, 2, 0, 1, 2], seed=0)

    assert seen == [[0, 1, 2, 3, 4, 5], [1, 2, 4, 5], [0, 2, 3, 5], [0, 1, 3, 4]]


def test_groups_not_points_make_the_width():
    # Ten groups of 20 equal points: the points tell no more than ten.
    values = np.random.default_rng(0).normal(size=10)
    once = bootstrap(mean_of(values), np.arange(10), seed=0)
    many = bootstrap(mean_of(np.repeat(values, 20)), np.repeat(np.arange(10), 20), seed=0)

    assert many["mean"].low == pytest.approx(once["mean"].low)
    assert many["mean"].high == pytest.approx(once["mean"].high)


@pytest.mark.parametrize("count", [4, 8])
def test_intervals_of_a_mean_cover_it_as_often_as_they_say(count):
    rng = np.random.default_rng(count)
    covered, trials = 0, 200
    for trial in range(trials):
        values = rng.normal(size=count)
        found = bootstrap(mean_of(values), np.arange(count), seed=trial, resamples=300)["mean"]
        covered += found.low <= 0 <= found.high

    # Binomial deviation is 1.5 points; a plain percentile interval of 8 covers 89 %.
    assert 0.915 <= covered / trials <= 0.985


def failing_without(row, values):
    def statistic(rows):
        if row not in rows:
            raise FitError("the point that is needed is missing")
        return {"mean": float(np.mean(values[rows]))}

    return statistic


def test_failed_refits_are_counted_and_too_many_leave_no_interval():
    values = np.arange(10.0)
    found = bootstrap(failing_without(3, values), np.arange(10), seed=0, resamples=500)

    # A group is missing from (9/10)^10 = 35 % of the draws.
    assert found.num_failed == pytest.approx(174, abs=35)
    assert f"{found.num_failed} of 500 resamples could not be fitted, so" in found.note
    assert math.isnan(found["mean"].low)


def test_a_failed_jackknife_has_no_interval():
    found = bootstrap(failing_without(3, np.arange(5.0)), np.arange(5), seed=0)

    assert (found.method, found.num_failed) == ("jackknife", 1)
    assert math.isnan(found["mean"].high)


def test_few_failed_refits_leave_the_interval_with_a_note():
    values = np.arange(10.0)

    def statistic(rows):
        if len(set(rows)) < 5:
            raise FitError("too few")
        return {"mean": float(np.mean(values[rows]))}

    found = bootstrap(statistic, np.arange(10), seed=0, resamples=2000)

    assert 0 < found.num_failed < 100
    assert found.note.endswith("could not be fitted")
    assert found["mean"].low < 4.5 < found["mean"].high


def test_same_seed_same_interval():
    values = np.random.default_rng(0).normal(size=12)
    one, same, other = (
        bootstrap(mean_of(values), np.arange(12), seed=s, resamples=50) for s in (0, 0, 1)
    )

    assert one == same
    assert one != other


def test_bad_input_is_refused():
    with pytest.raises(FitError, match="one label per point"):
        bootstrap(mean_of(np.ones(2)), [[0, 1]], seed=0)
    with pytest.raises(ValueError, match="level 2"):
        bootstrap(mean_of(np.ones(2)), [0, 1], seed=0, level=2)
    with pytest.raises(ValueError, match="resamples 0"):
        bootstrap(mean_of(np.ones(2)), [0, 1], seed=0, resamples=0)
    with pytest.raises(FitError, match="needed is missing"):
        bootstrap(failing_without(9, np.ones(2)), [0, 1], seed=0)
