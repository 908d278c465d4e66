import math

import numpy as np
import pytest

from bathyscope.metrics.mixing import mixing, same_label


def test_pairs_by_hand():
    # Of the 6 pairs of (a, a, b, c) one is equal.
    assert same_label(np.array([1, 1, 2, 3])) == pytest.approx(1 / 6)
    assert same_label(np.array([4, 4])) == 1.0
    assert same_label(np.array([4, 5])) == 0.0
    assert math.isnan(same_label(np.array([4])))


def test_mixing_by_hand():
    everything = np.repeat(np.arange(4), 5)
    chance = 4 * 5 * 4 / (20 * 19)

    assert mixing([np.array([0, 0, 0])], everything) == pytest.approx(1 / chance)
    assert mixing([np.array([0, 1, 2, 3])], everything) == 0.0
    both = mixing([np.array([0, 0, 0]), np.array([0, 1, 2, 3])], everything)
    assert both == pytest.approx(0.5 / chance)


def test_independent_draws_have_a_mixing_of_one():
    rng = np.random.default_rng(0)
    everything = rng.zipf(1.5, 100_000) % 1000
    batches = [rng.choice(everything, 512, replace=False) for _ in range(400)]

    assert mixing(batches, everything) == pytest.approx(1.0, abs=0.02)


def test_a_batch_of_one_of_many_equal_documents_is_near_their_number():
    everything = np.repeat(np.arange(50), 1000)

    assert mixing([np.full(256, 7)], everything) == pytest.approx(50, rel=0.03)


def test_nothing_to_compare_is_no_number():
    assert math.isnan(mixing([], np.array([1, 1])))
    assert math.isnan(mixing([np.array([1, 2])], np.array([1, 2])))
    assert math.isnan(mixing([np.array([1, 1])], np.array([])))
