import math

import numpy as np
import pytest

from bathyscope.errors import FitError, NonFiniteError
from bathyscope.studies.regression import slope, trend

SIZES = np.repeat(np.geomspace(1e6, 1e8, 5), 2)
SEEDS = np.tile([0, 1], 5)


def line(per_e_fold, scale, seed=0):
    noise = np.random.default_rng(seed).normal(size=10) * scale
    return per_e_fold * np.log(SIZES) + noise


def test_a_slope_by_hand():
    # Σ(x − x̄)(y − ȳ) / Σ(x − x̄)² with x̄ = 2, ȳ = 3: (2 + 0 + 1) / 2.
    assert slope(np.array([1.0, 2, 3]), np.array([1.0, 4, 4])) == 1.5


@pytest.mark.parametrize(
    ("per_e_fold", "verdict"), [(0.3, "rises"), (-0.3, "falls"), (0.0, "no trend shown")]
)
def test_the_verdict(per_e_fold, verdict):
    found = trend(SIZES, line(per_e_fold, 0.1), SEEDS, seed=0)

    assert found.verdict == verdict
    assert found.slope.low < per_e_fold < found.slope.high
    assert found.per_decade.estimate == pytest.approx(found.slope.estimate * math.log(10))
    assert (found.num_sizes, found.num_groups) == (5, 10)
    assert "95% interval [" in found.reason
    assert found.record()["verdict"] == verdict


def test_spearman_sees_order_only():
    y = np.exp(np.log10(SIZES))
    assert trend(SIZES, y, SEEDS, seed=0).spearman == pytest.approx(1)
    assert trend(SIZES, -y, SEEDS, seed=0).spearman == pytest.approx(-1)


def test_the_interval_covers_the_slope_as_often_as_it_says():
    covered, trials = 0, 100
    for trial in range(trials):
        found = trend(SIZES, line(0.3, 0.1, trial), SEEDS, seed=trial, resamples=250).slope
        covered += found.low <= 0.3 <= found.high

    # Binomial deviation is 2 points. Ten models in pairs: a few points short or over.
    assert 0.89 <= covered / trials <= 0.995


def test_a_constant_shows_no_trend():
    found = trend(SIZES, np.ones(10), SEEDS, seed=0)

    assert (found.slope.estimate, found.verdict) == (0.0, "no trend shown")
    assert math.isnan(found.spearman)
    assert found.record()["spearman"] is None


def test_points_of_one_model_are_one_group():
    # Three hook points of each model: thirty points, ten models.
    y = np.repeat(line(0.3, 0.1), 3)
    found = trend(np.repeat(SIZES, 3), y, np.repeat(SEEDS, 3), seed=0)
    once = trend(SIZES, y[::3], SEEDS, seed=0)

    assert found.num_groups == 10
    assert found.slope.estimate == pytest.approx(once.slope.estimate)


def test_three_models_have_a_wide_interval_and_two_have_none():
    three = trend([1e6, 1e7, 1e8], [1.0, 2.1, 3.0], [0, 0, 0], seed=0)
    assert three.slope.low < 0 < three.slope.high
    assert three.verdict == "no trend shown"

    two = trend([1e6, 1e7], [1.0, 2.0], [0, 0], seed=0)
    assert math.isnan(two.slope.low)
    assert two.verdict == "no trend shown"
    assert two.reason.startswith("2 independent groups leave 0 degrees of freedom")


def test_bad_input_is_refused():
    with pytest.raises(FitError, match="have one size"):
        trend([1e6, 1e6], [1, 2], [0, 1], seed=0)
    with pytest.raises(FitError, match=r"sizes\[0\] is 0"):
        trend([0, 1e6], [1, 2], [0, 1], seed=0)
    with pytest.raises(NonFiniteError, match=r"y\[0\] is nan"):
        trend([1e5, 1e6], [np.nan, 2], [0, 1], seed=0)
    with pytest.raises(FitError, match="one seed per point"):
        trend([1e5, 1e6], [1, 2], [0], seed=0)
