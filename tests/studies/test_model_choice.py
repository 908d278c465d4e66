import math

import numpy as np
import pytest

from bathyscope.errors import FitError
from bathyscope.studies.model_choice import aicc, shapes, vertex, weights

Z = np.repeat(np.arange(5.0), 2)


def bumps(scale=0.01):
    return np.random.default_rng(0).normal(size=10) * scale


def test_aicc_by_hand():
    # n = 10, K = 3: 10 ln(0.5) + 6 + 24/6.
    assert aicc(5.0, 10, 3) == pytest.approx(10 * math.log(0.5) + 10)
    assert aicc(5.0, 4, 3) == math.inf


def test_rss_of_the_polynomials_by_hand():
    # y = 0, 1, 0 on 0, 1, 2: mean 1/3, flat line, and a parabola through all three.
    found = shapes(np.array([0.0, 1, 2]), np.array([0.0, 1, 0]))

    assert found["constant"].rss == pytest.approx(2 / 3)
    assert found["linear"].rss == pytest.approx(2 / 3)
    assert found["quadratic"].rss == pytest.approx(0, abs=1e-20)
    assert vertex(found["quadratic"], np.array([0.0, 1, 2])) == pytest.approx(1)
    assert [found[name].num_parameters for name in found] == [2, 3, 4, 4]
    assert all(math.isinf(shape.aicc) for shape in found.values())
    assert all(math.isnan(weight) for weight in weights(found).values())


@pytest.mark.parametrize(
    ("name", "y"),
    [
        ("constant", np.full(10, 2.0)),
        ("linear", 2 + 0.3 * Z),
        ("monotone", 1 - np.exp(-1.2 * Z)),
        ("monotone", 0.02 * np.exp(1.2 * Z)),
        ("quadratic", -((Z - 2.2) ** 2)),
    ],
)
@pytest.mark.parametrize("scale", [0.0, 0.01])
def test_a_planted_shape_is_chosen(name, y, scale):
    found = shapes(Z, y + bumps(scale))

    assert min(found, key=lambda n: found[n].aicc) == name
    share = weights(found)
    assert sum(share.values()) == pytest.approx(1)
    assert max(share, key=lambda n: share[n]) == name


def test_the_bend_of_a_saturating_power_law_comes_back():
    # κ is per measured range: e^(−1.2 z) over a range of 4 has κ = 4.8.
    found = shapes(Z, 1 - np.exp(-1.2 * Z))["monotone"]

    assert found.coefficients["kappa"] == pytest.approx(4.8, rel=1e-4)
    assert found.fitted == pytest.approx(1 - np.exp(-1.2 * Z), abs=1e-5)


def test_weights_by_hand():
    found = shapes(Z, 2 + 0.3 * Z + bumps(0.1))
    share = weights(found)
    lead = found["linear"].aicc - found["quadratic"].aicc

    assert share["quadratic"] / share["linear"] == pytest.approx(math.exp(lead / 2))


def test_two_sizes_are_refused():
    with pytest.raises(FitError, match="2 different sizes"):
        shapes(np.array([0.0, 0, 1, 1]), np.arange(4.0))
