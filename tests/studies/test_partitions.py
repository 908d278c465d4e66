"""Likeness of partitions by hand and of random ones; sizes of communities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bathyscope.studies.partitions import alike, effective_number, sizes


def test_the_same_partition_by_other_names() -> None:
    first, second = np.array([0, 0, 1, 1, 2]), np.array([5, 5, 0, 0, 9])
    found = alike(first, second)
    assert found.adjusted_rand == pytest.approx(1)
    assert found.mutual_information == pytest.approx(1)
    assert found.num_nodes == 5


def test_by_hand() -> None:
    # Contingency [[2, 1], [0, 3]]: Σ C(n_ij, 2) = 1 + 3, of rows 3 + 3, of columns 1 + 6.
    found = alike(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1]))
    chance = 6 * 7 / 15
    assert found.adjusted_rand == pytest.approx((4 - chance) / (6.5 - chance))
    h_a, h_b = math.log(2), -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)
    h_ab = -(math.log(1 / 3) / 3 + math.log(1 / 6) / 6 + math.log(1 / 2) / 2)
    assert found.mutual_information == pytest.approx(2 * (h_a + h_b - h_ab) / (h_a + h_b))


def test_random_partitions_agree_by_nothing_but_nmi_does_not_know() -> None:
    draw = np.random.default_rng(0)
    found = [alike(draw.integers(40, size=200), draw.integers(40, size=200)) for _ in range(50)]
    assert np.mean([f.adjusted_rand for f in found]) == pytest.approx(0, abs=0.005)
    assert np.mean([f.mutual_information for f in found]) > 0.4


def test_partitions_without_choice() -> None:
    one = np.zeros(4, dtype=int)
    assert alike(one, one).adjusted_rand == 1
    assert alike(one, one).mutual_information == 1
    assert alike(np.arange(4), np.arange(4)).adjusted_rand == 1
    assert alike(one, np.arange(4)).adjusted_rand == pytest.approx(0)
    for num in (0, 1):
        assert math.isnan(alike(np.zeros(num, dtype=int), np.zeros(num, dtype=int)).adjusted_rand)
    with pytest.raises(ValueError, match="4 and 3 nodes"):
        alike(np.arange(4), np.arange(3))


def test_sizes_and_their_effective_number() -> None:
    np.testing.assert_array_equal(sizes(np.array([3, 3, 0, 3, 7, 7])), [3, 2, 1])
    assert effective_number(np.arange(12) // 3) == pytest.approx(4)
    shares = np.array([3, 1]) / 4
    expected = math.exp(-float((shares * np.log(shares)).sum()))
    assert effective_number(np.array([0, 0, 0, 1])) == pytest.approx(expected)
    assert math.isnan(effective_number(np.zeros(0, dtype=int)))
