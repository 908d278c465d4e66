"""Agreement by hand, with ties, flips and empty lists."""

from __future__ import annotations

import math

import pytest

from bathyscope.metrics.agreement import pearson, spearman, topk_recall


def test_correlations_by_hand() -> None:
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    # Deviations (-1, 0, 1) and (-2, 1, 1): 3 / sqrt(2 * 6).
    assert pearson([1, 2, 3], [0, 3, 3]) == pytest.approx(3 / math.sqrt(12))
    # Ranks (1, 2, 3) and (1, 2.5, 2.5): deviations (-1, 0, 1) and (-1, .5, .5).
    assert spearman([1, 2, 3], [0, 9, 9]) == pytest.approx(1.5 / math.sqrt(2 * 1.5))
    assert spearman([1, 2, 3], [1, 10, 1000]) == pytest.approx(1)


def test_a_flipped_sign_shows_in_correlations_and_not_in_recall() -> None:
    true, flipped = [0.1, -2.0, 1.0, 0.0], [-0.1, 2.0, -1.0, 0.0]
    assert pearson(true, flipped) == pytest.approx(-1)
    assert spearman(true, flipped) == pytest.approx(-1)
    assert topk_recall(true, flipped, 2) == 1


def test_recall_by_hand() -> None:
    assert topk_recall([5, -4, 3, 2], [1, -9, 8, 0], 2) == 0.5
    assert topk_recall([5, -4, 3, 2], [1, -9, 8, 0], 3) == 1
    assert topk_recall([5, -4, 3, 2], [9, 8, 7, 6], 10) == 1


def test_ties_find_what_chance_finds() -> None:
    # An estimate that says nothing finds one of two wanted among four half of the time.
    assert topk_recall([5, 4, 0, 0], [0, 0, 0, 0], 2) == 0.5
    # Both of the true values that equal the second count.
    assert topk_recall([5, 4, 4, 0], [9, 0, 8, 0], 2) == 1
    # One above, and the second is one of three equals, two of them wrong.
    assert topk_recall([5, 4, 0, 0], [9, 1, 1, 1], 2) == pytest.approx((1 + 1 / 3) / 2)


def test_what_is_not_defined_is_nan() -> None:
    for value in (pearson([], []), pearson([1], [1]), pearson([1, 1], [1, 2]), spearman([], [])):
        assert math.isnan(value)
    assert math.isnan(topk_recall([], [], 3))
    assert topk_recall([2], [1], 1) == 1


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2\] true and \[3\] estimated"):
        pearson([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="k is 0"):
        topk_recall([1], [1], 0)
