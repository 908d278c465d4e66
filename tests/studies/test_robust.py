import numpy as np
import pytest
from scipy.optimize import approx_fprime

from bathyscope.studies.laws import CHINCHILLA, JOINT, POWER_LAW, PURE_POWER_LAW
from bathyscope.studies.robust import Problem, huber, objective, scaled


def problem_of(law):
    rng = np.random.default_rng(0)
    inputs = [np.exp(rng.uniform(1, 6, size=12)) for _ in law.inputs]
    logs = rng.normal(size=12)
    return Problem(law, law.designs(inputs), logs, rng.uniform(0.5, 2, size=12), 1e-3)


@pytest.mark.parametrize("law", [PURE_POWER_LAW, POWER_LAW, CHINCHILLA, JOINT])
@pytest.mark.parametrize("delta", [1e-3, 0.5])
def test_the_gradient_is_that_of_finite_differences(law, delta):
    problem = scaled(problem_of(law))
    phi = np.random.default_rng(1).normal(size=len(law.names)) * 0.3
    wanted = approx_fprime(phi, lambda p: objective(p, problem, delta)[0], 1e-7)

    assert objective(phi, problem, delta)[1] == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_scaled_coordinates_go_both_ways_and_keep_the_prediction():
    problem = problem_of(JOINT)
    there = scaled(problem)
    theta = np.array([-0.5, 0.26, -0.017, -0.042, -1.32, -0.085])

    assert there.to_theta(there.to_phi(theta)) == pytest.approx(theta)
    for q, r, x in zip(there.bases, there.triangles, problem.designs, strict=True):
        assert q @ r == pytest.approx(x)


def test_huber_by_hand():
    # δ = 1: 0.5²/2 = 0.125 inside, 3 − 0.5 = 2.5 outside, weight 2 on the second.
    assert huber(np.array([0.5, -3.0]), np.array([1.0, 2.0]), 1.0) == pytest.approx(5.125)


def test_far_parameters_do_not_overflow():
    problem = scaled(problem_of(CHINCHILLA))
    loss, gradient = objective(np.full(5, 1e4), problem, 1e-3)

    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
