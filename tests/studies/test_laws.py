import math

import numpy as np
import pytest

from bathyscope.studies.laws import CHINCHILLA, JOINT, POWER_LAW, log_sum


def test_a_law_by_hand():
    theta = POWER_LAW.theta({"A": 8.0, "alpha": 0.5, "E": 1.0})

    assert POWER_LAW.predict(theta, [np.array([4.0, 16.0])]) == pytest.approx([5.0, 3.0])
    assert POWER_LAW.stated(theta) == pytest.approx([8.0, 0.5, 1.0])


def test_an_irreducible_part_of_0_adds_nothing():
    theta = POWER_LAW.theta({"A": 8.0, "alpha": 0.5, "E": 0.0})

    assert POWER_LAW.predict(theta, [np.array([4.0])]) == pytest.approx([4.0], rel=1e-12)


def test_two_inputs_keep_their_order():
    theta = CHINCHILLA.theta({"A": 6.0, "alpha": 1.0, "B": 10.0, "beta": 2.0, "E": 1.0})

    assert CHINCHILLA.predict(theta, [np.array([3.0]), np.array([5.0])]) == pytest.approx([3.4])


def test_the_joint_law_by_hand():
    # n = k = e: exp(0.1 + 0.2 + 0.3 + 0.4) + exp(−1 + 0.5).
    theta = np.array([0.1, 0.2, 0.3, 0.4, -1.0, 0.5])
    e = np.array([math.e])

    assert JOINT.predict(theta, [e, e]) == pytest.approx([math.exp(1.0) + math.exp(-0.5)])
    assert JOINT.stated(theta) == pytest.approx(theta)


def test_the_sum_of_very_different_terms_is_stable():
    total, shares = log_sum(np.array([[1000.0, -1000.0], [1000.0, -2000.0]]))

    assert total == pytest.approx([1000 + math.log(2), -1000])
    assert shares == pytest.approx(np.array([[0.5, 1.0], [0.5, 0.0]]))
