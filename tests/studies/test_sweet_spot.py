import math

import numpy as np
import pytest

from bathyscope.errors import FitError, NonFiniteError
from bathyscope.studies.sweet_spot import compare

SIZES = np.repeat(np.geomspace(1e6, 1e8, 5), 2)
SEEDS = np.tile([0, 1], 5)
TENS = np.log10(SIZES)


def noisy(y, scale, seed=0):
    return y + np.random.default_rng(seed).normal(size=len(y)) * scale


def test_a_planted_maximum_is_named_with_its_interval():
    found = compare(SIZES, noisy(-((TENS - 7.2) ** 2), 0.05), SEEDS, seed=0, resamples=120)

    assert (found.best, found.reason) == ("quadratic", "")
    spot = found.sweet_spot
    assert spot.kind == "maximum"
    assert spot.low < 10**7.2 < spot.high
    assert spot.size == pytest.approx(10**7.2, rel=0.1)
    assert found.quadratic_share > 0.9
    assert found.chance < 0.02
    assert found.record()["sweet_spot"]["kind"] == "maximum"


def test_a_planted_minimum_is_one():
    found = compare(SIZES, noisy((TENS - 6.9) ** 2, 0.05), SEEDS, seed=0, resamples=120)

    assert found.sweet_spot.kind == "minimum"


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "y", [1 - np.exp(-2 * (TENS - 6)), np.exp(2 * (TENS - 8)), 0.3 * TENS, 0 * TENS]
)
def test_monotone_data_have_no_sweet_spot(y, seed):
    found = compare(SIZES, noisy(y, 0.03, seed), SEEDS, seed=0, resamples=60)

    assert found.sweet_spot is None
    assert found.reason


def test_what_goes_on_falling_has_its_extremum_outside():
    # A parabola without noise whose vertex is at 1e9.
    found = compare(SIZES, noisy((TENS - 9) ** 2, 0.01), SEEDS, seed=0, resamples=60)

    assert found.sweet_spot is None
    assert found.reason.endswith("lies outside the measured sizes 1e+06 to 1e+08")


def test_an_extremum_near_an_end_is_not_placed():
    # The vertex lies inside, at 6.2 of 6 to 8, but nothing is measured on its other side.
    found = compare(SIZES, noisy(-((TENS - 6.2) ** 2), 0.3, 1), SEEDS, seed=0, resamples=120)

    assert found.sweet_spot is None
    assert found.reason


def test_four_sizes_are_refused():
    kept = slice(0, 8)
    found = compare(SIZES[kept], -((TENS[kept] - 6.8) ** 2), SEEDS[kept], seed=0, resamples=20)

    assert found.best == "quadratic"
    assert found.sweet_spot is None
    assert found.reason.startswith("4 of 4 sizes have 2 seeds or more; an extremum is named from 5")


def test_one_seed_at_a_size_is_refused():
    y = -((TENS - 7) ** 2)
    found = compare(SIZES[1:], y[1:], SEEDS[1:], seed=0, resamples=20)

    assert found.sweet_spot is None
    assert found.reason.startswith("4 of 5 sizes")
    # Three hook points of one model are not three seeds.
    one = compare(
        np.repeat(SIZES[::2], 3), np.repeat(y[::2], 3), np.zeros(15), seed=0, resamples=20
    )
    assert one.reason.startswith("0 of 5 sizes")


def test_five_models_leave_the_bent_shapes_out():
    found = compare(SIZES[::2], -((TENS[::2] - 7) ** 2), SEEDS[::2], seed=0, resamples=20)

    assert math.isinf(found.shapes["quadratic"].aicc)
    assert found.weights["quadratic"] == 0
    assert found.record()["aicc"]["quadratic"] is None
    assert math.isnan(found.quadratic_share)


def test_noise_is_seldom_called_a_sweet_spot():
    named = 0
    for seed in range(15):
        y = noisy(0.3 * TENS, 0.2, seed)
        named += compare(SIZES, y, SEEDS, seed=0, resamples=40).sweet_spot is not None

    assert named <= 2


def test_same_seed_same_comparison():
    y = noisy(-((TENS - 7.2) ** 2), 0.2)
    one, same = (compare(SIZES, y, SEEDS, seed=3, resamples=40).record() for _ in range(2))

    assert one == same


def test_bad_input_is_refused():
    with pytest.raises(FitError, match="2 different sizes"):
        compare([1, 1, 2, 2], [1, 2, 3, 4], [0, 1, 0, 1], seed=0)
    with pytest.raises(FitError, match=r"sizes\[0\] is -1"):
        compare([-1, 1, 2], [1, 2, 3], [0, 0, 0], seed=0)
    with pytest.raises(NonFiniteError, match=r"y\[2\]"):
        compare([1, 2, 3], [1, 2, np.nan], [0, 0, 0], seed=0)
    with pytest.raises(FitError, match="level 1"):
        compare([1, 2, 3], [1, 2, 3], [0, 0, 0], seed=0, level=1)
