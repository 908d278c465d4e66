import math

import numpy as np
import pytest

from bathyscope.errors import FitError, NonFiniteError
from bathyscope.studies.fits import (
    fit_chinchilla,
    fit_damage,
    fit_intervals,
    fit_joint,
    fit_power_law,
)

CHINCHILLA = {"A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28, "E": 1.69}
JOINT = {
    "alpha": -0.50,
    "beta_k": 0.26,
    "beta_n": -0.017,
    "gamma": -0.042,
    "zeta": -1.32,
    "eta": -0.085,
}
SIZES = np.repeat(np.geomspace(1e6, 1e8, 5), 2)


def grid(*axes):
    return [axis.ravel() for axis in np.meshgrid(*axes)]


def noise(count, scale, seed=0):
    return np.exp(scale * np.random.default_rng(seed).normal(size=count))


def chinchilla_points():
    n, d = grid(np.geomspace(4e7, 1.6e10, 6), np.geomspace(1e9, 5e11, 6))
    return n, d, 1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28


def joint_loss(n, k):
    first = np.exp(-0.50 + 0.26 * np.log(k) - 0.017 * np.log(n) - 0.042 * np.log(k) * np.log(n))
    return first + np.exp(-1.32 - 0.085 * np.log(k))


def test_the_constants_of_chinchilla_come_back():
    fit = fit_chinchilla(*chinchilla_points())

    assert fit.parameters == pytest.approx(CHINCHILLA, rel=1e-5)
    assert fit.starts.agree
    assert (fit.starts.count, fit.num_points) == (36, 36)
    # 70 B parameters and 1.4 T tokens: 1.69 + 0.0835 + 0.1633 by hand.
    assert fit.predict(70e9, 1.4e12) == pytest.approx([1.9366], abs=2e-4)


def test_chinchilla_with_noise_of_half_a_percent():
    n, d, loss = chinchilla_points()
    fit = fit_chinchilla(n, d, loss * noise(len(n), 0.005))

    assert fit.parameters["E"] == pytest.approx(1.69, rel=0.05)
    assert fit.parameters["alpha"] == pytest.approx(0.34, abs=0.03)
    assert fit.parameters["beta"] == pytest.approx(0.28, abs=0.03)
    assert fit.starts.agree


def test_the_constants_of_the_joint_law_come_back():
    n, k = grid(2.0 ** np.arange(11, 22, 2), 2.0 ** np.arange(3, 10))
    fit = fit_joint(n, k, joint_loss(n, k))

    assert fit.parameters == pytest.approx(JOINT, rel=1e-4, abs=1e-5)
    assert fit.predict(1e6, 32) == pytest.approx([0.357], abs=5e-4)
    assert joint_loss(1e6, 32) == pytest.approx(0.357, abs=5e-4)
    assert fit.starts.agree


def test_the_constants_of_damage_come_back():
    d, n, share = grid(np.geomspace(1e5, 4e6, 4), np.geomspace(8e4, 1e6, 5), np.array([0.5, 0.7]))
    ended = d > 3e6
    rise = 0.01 * d**0.5 / n**0.3 * np.exp(6 * share) * np.where(ended, 1.5, 1)
    wanted = {"C": 0.01, "gamma_D": 0.5, "gamma_N": 0.3, "kappa": 6.0, "epsilon": math.log(1.5)}
    fit = fit_damage(d, n, share, ended, rise)

    assert fit.parameters == pytest.approx(wanted, rel=1e-6)
    assert fit.starts.agree
    # Twice the tokens of twice the parameters cost 2^(0.5 - 0.3) times as much.
    ratio = fit.predict(2e6, 2e5, 0.5, 1) / fit.predict(1e6, 1e5, 0.5, 1)
    assert ratio == pytest.approx([2**0.2])
    assert fit.predict(1e6, 1e5, 0.5, 2) == pytest.approx(1.5 * fit.predict(1e6, 1e5, 0.5, 1))
    noisy = fit_damage(d, n, share, ended, rise * noise(len(d), 0.1))
    assert noisy.parameters["gamma_D"] == pytest.approx(0.5, abs=0.1)
    assert noisy.parameters["gamma_N"] == pytest.approx(0.3, abs=0.1)


def test_damage_at_one_number_of_tokens_does_not_say_what_training_does():
    n, share = grid(np.geomspace(8e4, 1e6, 5), np.array([0.5, 0.7]))
    rise = n**-0.3 * np.exp(6 * share)
    half = np.arange(len(n)) % 3 == 0
    for tokens, ended in (
        (np.full(len(n), 4e6), half),
        # In proportion to parameters: trained alike, so only the difference is known.
        (20 * n, half),
        # Nothing but last weights, or none.
        (n**0.5, np.ones(len(n))),
        (n**0.5, np.zeros(len(n))),
    ):
        with pytest.raises(FitError, match="cannot tell apart C, gamma_D, gamma_N, kappa, epsilon"):
            fit_damage(tokens, n, share, ended, rise)


def test_the_constants_of_loss_against_compute_come_back():
    compute = np.geomspace(1e-9, 1e-2, 12)
    fit = fit_power_law(compute, 0.09 + 0.056 * compute**-0.084)

    assert fit.parameters == pytest.approx({"A": 0.056, "alpha": 0.084, "E": 0.09}, rel=1e-4)
    assert fit.loss < 1e-15
    assert np.abs(fit.residuals).max() < 1e-7


def test_a_pure_power_law_is_a_straight_line():
    x = np.geomspace(1e6, 1e10, 5)
    fit = fit_power_law(x, (8.8e13 / x) ** 0.076, irreducible=False)

    assert fit.parameters == pytest.approx({"A": 8.8e13**0.076, "alpha": 0.076}, rel=1e-6)


def test_nothing_irreducible_gives_an_e_of_nearly_0():
    x = np.geomspace(1e2, 1e6, 9)
    fit = fit_power_law(x, 5 * x**-0.5)

    assert fit.parameters["E"] < 1e-6
    assert fit.parameters["alpha"] == pytest.approx(0.5, abs=1e-3)


def test_what_rises_has_a_negative_exponent():
    x = np.geomspace(1e2, 1e6, 6)
    fit = fit_power_law(x, 3 * x**0.4, irreducible=False)

    assert fit.parameters == pytest.approx({"A": 3, "alpha": -0.4}, rel=1e-6)


def test_an_outlier_moves_least_squares_and_not_the_fit():
    x = np.geomspace(1e6, 1e8, 9)
    y = 40 * x**-0.2
    y[8] *= 1.5
    wide = fit_power_law(x, y, irreducible=False, delta=10.0)
    robust = fit_power_law(x, y, irreducible=False)

    # With so wide a δ this is least squares of ln y, whose line numpy knows.
    slope = np.polyfit(np.log(x), np.log(y), 1)[0]
    assert -wide.parameters["alpha"] == pytest.approx(slope, rel=1e-5)
    assert abs(wide.parameters["alpha"] - 0.2) > 0.04
    assert robust.parameters["alpha"] == pytest.approx(0.2, abs=1e-3)
    assert robust.residuals[8] == pytest.approx(math.log(1.5), abs=0.01)


def test_the_loss_is_the_formula():
    x = np.geomspace(1, 100, 9)
    y = 2 * x**-0.5
    y[4] *= math.exp(0.01)
    fit = fit_power_law(x, y, irreducible=False)

    # One point lies 0.01 above a line through the eight others: about δ (0.01 − δ/2).
    assert fit.loss == pytest.approx(1e-3 * (0.01 - 0.0005), rel=0.02)


def test_a_weight_of_two_is_the_point_twice():
    x = np.geomspace(1e6, 1e8, 6)
    y = 40 * x**-0.2 * noise(6, 0.02)
    twice = fit_power_law(np.append(x, x[0]), np.append(y, y[0]), irreducible=False)
    weighted = fit_power_law(x, y, irreducible=False, weights=[2, 1, 1, 1, 1, 1])

    assert weighted.loss == pytest.approx(twice.loss, rel=1e-6)
    assert weighted.parameters == pytest.approx(twice.parameters, rel=1e-5)


def test_scales_of_x_and_y_change_the_coefficients_only():
    x = np.geomspace(1e6, 1e8, 8)
    y = (1.5 + 40 * x**-0.2) * noise(8, 0.01)
    one, other = fit_power_law(x, y), fit_power_law(x * 1e9, y * 1e-3)

    assert other.parameters["alpha"] == pytest.approx(one.parameters["alpha"], rel=1e-4)
    assert other.parameters["E"] == pytest.approx(one.parameters["E"] * 1e-3, rel=1e-4)
    assert other.loss == pytest.approx(one.loss, rel=1e-6)


def test_points_that_do_not_determine_the_fit_say_so():
    # A constant is E alone, or a power law that hardly falls, or any mixture of both.
    fit = fit_power_law(np.geomspace(1e6, 1e8, 6), np.full(6, 2.0))

    assert not fit.starts.agree
    assert fit.predict(1e7) == pytest.approx([2.0], rel=1e-5)
    assert fit.record()["starts_agree"] is False


def test_intervals_of_a_fit_hold_the_truth_and_are_repeatable():
    y = (1.5 + 40 * SIZES**-0.2) * noise(10, 0.005, seed=1)
    fit = fit_power_law(SIZES, y)
    at = {"between": [1e7], "beyond": [1e9]}
    found = fit_intervals(fit, np.arange(10), seed=0, at=at, resamples=40)

    truth = {"E": 1.5, "alpha": 0.2, "A": 40, "between": 1.5 + 40 * 1e7**-0.2}
    for name, value in truth.items():
        assert found[name].low <= value <= found[name].high, name
    assert found["alpha"].estimate == fit.parameters["alpha"]
    widths = {name: found[name].high - found[name].low for name in at}
    assert widths["beyond"] > 2 * widths["between"]
    assert found == fit_intervals(fit, np.arange(10), seed=0, at=at, resamples=40)


def test_two_seeds_give_the_wide_interval_of_one_degree_of_freedom():
    y = 40 * SIZES**-0.2 * noise(10, 0.01)
    fit = fit_power_law(SIZES, y, irreducible=False)
    found = fit_intervals(fit, np.arange(10) % 2, seed=0)
    each = [
        fit_power_law(SIZES[i::2], y[i::2], irreducible=False).parameters["alpha"] for i in (0, 1)
    ]

    assert found.method == "jackknife"
    # t of one degree of freedom is 12.706; two fits at ±h have a standard error of h.
    half = 12.706 * abs(each[0] - each[1]) / 2
    assert found["alpha"].high - found["alpha"].low == pytest.approx(2 * half, rel=1e-3)


def test_the_jackknife_covers_the_exponent_as_often_as_it_says():
    covered, trials = 0, 40
    x = np.geomspace(1e6, 1e8, 6)
    for trial in range(trials):
        fit = fit_power_law(x, 40 * x**-0.2 * noise(6, 0.02, trial), irreducible=False)
        found = fit_intervals(fit, np.arange(6), seed=0, level=0.9)["alpha"]
        covered += found.low <= 0.2 <= found.high

    # Binomial deviation is 4.7 points.
    assert 0.78 <= covered / trials <= 0.99


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        ([1.0], [2.0], FitError, "1 points for the 3 parameters of E"),
        ([1.0, 2, 3], [3.0, 2, 1], FitError, "wanted at least 4"),
        ([], [], FitError, "at least one point"),
        ([1.0, 2, 3, 4], [3.0, 2, 1], FitError, r"x \[4\], y \[3\]"),
        ([1.0, 2, 3, np.nan], [4.0, 3, 2, 1], NonFiniteError, r"x\[3\] is nan \(1 of 4"),
        ([1.0, 2, 3, 4], [4.0, np.inf, 2, 1], NonFiniteError, r"y\[1\] is inf"),
        ([0.0, 2, 3, 4], [4.0, 3, 2, 1], FitError, r"x\[0\] is 0 .*logarithms"),
        ([1.0, 2, 3, 4], [4.0, 3, -2, 1], FitError, r"y\[2\] is -2"),
        ([2.0, 2, 2, 2], [4.0, 3, 2, 1], FitError, "cannot tell apart A, alpha"),
        ([1.0, 1, 2, 2], [4.0, 4, 2, 2], FitError, "2 different settings of x for the 3"),
    ],
)
def test_points_that_cannot_be_fitted_are_refused(x, y, error, message):
    with pytest.raises(error, match=message):
        fit_power_law(x, y)


def test_inputs_in_step_are_refused():
    # 20 tokens per parameter everywhere: nothing tells the two terms apart but the exponents.
    n = np.geomspace(1e6, 1e9, 8)
    fit = fit_chinchilla(n, 20 * n, 1.69 + 406.4 * n**-0.34 + 410.7 * (20 * n) ** -0.28)
    assert not fit.starts.agree
    with pytest.raises(FitError, match="alpha, beta_k, beta_n, gamma"):
        fit_joint(n, np.full(8, 32.0), n**-0.1)


def test_bad_settings_are_refused():
    x, y = np.geomspace(1, 100, 6), np.geomspace(3, 1, 6)
    with pytest.raises(FitError, match="smallest weight 0"):
        fit_power_law(x, y, weights=[0, 1, 1, 1, 1, 1])
    with pytest.raises(FitError, match="delta 0"):
        fit_power_law(x, y, delta=0)
    fit = fit_power_law(x, y)
    with pytest.raises(FitError, match="got 2 inputs; wanted x"):
        fit.predict(1, 2)
    with pytest.raises(FitError, match=r"x\[0\] is -1"):
        fit.predict(-1.0)
    with pytest.raises(FitError, match="5 groups for 6 points"):
        fit_intervals(fit, np.arange(5), seed=0)
    with pytest.raises(FitError, match=r"\['E'\]"):
        fit_intervals(fit, np.arange(6), seed=0, at={"E": [3.0]})
