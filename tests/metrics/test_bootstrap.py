import math

import numpy as np
import pytest

from bathyscope.errors import NonFiniteError
from bathyscope.metrics import bootstrap
from bathyscope.metrics.bootstrap import bootstrap_ratio, bootstrap_statistic


def test_the_estimate_is_the_ratio_of_sums_not_the_mean_of_ratios():
    found = bootstrap_ratio(np.array([1.0, 9.0]), np.array([1.0, 3.0]), resamples=200, seed=0)

    assert found.estimate == 10 / 4
    # Two documents drawn twice: ratio 1 (1/4), 2.5 (1/2) or 3 (1/4).
    assert (found.low, found.high) == (1.0, 3.0)
    assert found.note == ""


def test_two_documents_come_out_in_binomial_shares():
    # With level 0.4 the ends are the 30 % and 70 % quantiles: both fall in the middle half.
    columns = np.array([[0.0], [2.0]])
    found = bootstrap_statistic(columns, lambda s: s[:, 0], resamples=5000, seed=3, level=0.4)

    assert (found.low, found.high) == (2.0, 2.0)


def test_the_interval_covers_a_known_ratio_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered, trials = 0, 300
    for trial in range(trials):
        tokens = rng.integers(5, 30, size=80).astype(float)
        # One shared shift per document: tokens of a document are not independent.
        losses = tokens * (2.0 + rng.normal(size=80))
        found = bootstrap_ratio(losses, tokens, resamples=400, seed=trial)
        covered += found.low <= 2.0 <= found.high

    # Binomial deviation is 1.3 points; the percentile interval is known to be a little short.
    assert 0.90 <= covered / trials <= 0.98


def test_the_width_is_that_of_the_mean():
    rng = np.random.default_rng(1)
    values = rng.normal(size=400)
    found = bootstrap_ratio(values, np.ones(400), resamples=4000, seed=0)

    wanted = 2 * 1.96 * values.std() / math.sqrt(400)
    assert found.high - found.low == pytest.approx(wanted, rel=0.06)


def test_identical_documents_have_no_width():
    found = bootstrap_ratio(np.full(7, 3.0), np.full(7, 2.0), resamples=50, seed=0)

    assert (found.estimate, found.low, found.high) == (1.5, 1.5, 1.5)


def test_one_document_has_no_interval_and_says_so():
    found = bootstrap_ratio(np.array([3.0]), np.array([2.0]), resamples=50, seed=0)

    assert found.estimate == 1.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert "one document" in found.note


def test_undefined_resamples_are_counted():
    # One of two documents has no tokens: a quarter of the draws has none at all.
    found = bootstrap_ratio(np.array([0.0, 4.0]), np.array([0.0, 2.0]), resamples=1000, seed=0)

    assert (found.estimate, found.low, found.high) == (2.0, 2.0, 2.0)
    missing = int(found.note.split(" in ")[1].split()[0])
    assert missing == pytest.approx(250, abs=60)


def test_an_undefined_statistic_has_no_interval():
    found = bootstrap_ratio(np.zeros(4), np.zeros(4), resamples=10, seed=0)

    assert math.isnan(found.estimate)
    assert math.isnan(found.low)
    assert found.note == "the statistic is undefined in 10 of 10 resamples"


def test_chunks_do_not_change_the_draw(monkeypatch):
    values = np.arange(11.0)
    whole = bootstrap_ratio(values, np.ones(11), resamples=37, seed=5)
    monkeypatch.setattr(bootstrap, "_CHUNK_DRAWS", 33)

    assert bootstrap_ratio(values, np.ones(11), resamples=37, seed=5) == whole
    assert bootstrap_ratio(values, np.ones(11), resamples=37, seed=6) != whole


def test_bad_input_is_refused():
    two = np.ones(2)
    with pytest.raises(ValueError, match="at least one document"):
        bootstrap_ratio(np.zeros(0), np.zeros(0), resamples=10, seed=0)
    with pytest.raises(ValueError, match="one number per document"):
        bootstrap_ratio(two, np.ones(3), resamples=10, seed=0)
    with pytest.raises(NonFiniteError, match="document number 1"):
        bootstrap_ratio(np.array([1.0, np.nan]), two, resamples=10, seed=0)
    with pytest.raises(ValueError, match="resamples 0"):
        bootstrap_ratio(two, two, resamples=0, seed=0)
    with pytest.raises(ValueError, match=r"level 1\.0"):
        bootstrap_ratio(two, two, resamples=10, seed=0, level=1.0)
