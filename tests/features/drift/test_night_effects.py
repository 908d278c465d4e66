"""Mixtures over effects of nights against exact ones and simulated ones."""

import math

import numpy as np
import pytest
from scipy.stats import binom, hypergeom, nchypergeom_fisher, norm
from scipy.stats import t as student

from bathyscope.features.drift.night_effects import _expected, odds_tail, shifted_tail
from bathyscope.features.drift.tails import hypergeometric_tail

MANY = 1000.0


def test_a_normal_effect_adds_its_variance():
    r, omega = np.array([3.0, 6.0, 8.0]), np.array([0.5, 1.0, 2.0])
    found = shifted_tail(norm.logsf(r), omega, MANY)
    assert found == pytest.approx(norm.logsf(r / np.sqrt(1 + omega**2)), rel=0.02)
    assert shifted_tail(norm.logsf(r), np.zeros(3), 4.0).tolist() == norm.logsf(r).tolist()


def test_few_degrees_of_freedom_have_heavy_tails():
    log_p, omega = np.array([-200.0]), np.array([1.0])
    assert shifted_tail(log_p, omega, 4.0) > math.log(1e-6)
    assert shifted_tail(log_p, omega, MANY) < math.log(1e-30)


def test_effects_never_lower_a_probability():
    log_p = np.linspace(-100, -1e-9, 50)
    assert (shifted_tail(log_p, np.linspace(0, 3, 50), 5.0) >= log_p).all()
    table = tuple(np.full(50, n) for n in (90.0, 200.0, 1000.0, 5000.0))
    assert (odds_tail(log_p, table, np.linspace(0, 3, 50), 5.0) >= log_p).all()


def test_expected_hits_are_those_of_the_odds_ratio():
    a = _expected(np.array([300.0]), np.array([1000.0]), np.array([4000.0]), np.array([2.5]))
    b, c = 300 - a, 1000 - a
    assert a * (4000 - 1000 - b) / (b * c) == pytest.approx(2.5)
    exact = nchypergeom_fisher.mean(4000, 300, 1000, 2.5)
    assert a == pytest.approx(exact, abs=0.1)
    assert _expected(np.array([300.0]), np.array([1e3]), np.array([4e3]), np.exp(-30.0)) < 1e-6


@pytest.mark.parametrize("share", [0.002, 0.05, 0.6])
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_rare_and_common_latents_against_the_exact_mixture(share, tau):
    # A large reference, so that the night's hits are binomial with odds changed by the effect.
    drawn, total = 2000, 200_000
    effects = student.ppf((np.arange(4000) + 0.5) / 4000, MANY) * tau
    odds = share / (1 - share) * np.exp(effects)
    for level in (1e-3, 1e-6):
        hits = binom.isf(level / 10, drawn, np.quantile(odds / (1 + odds), 1 - level))
        # Far levels need more nodes than quantiles give: weights of a fine grid instead.
        grid = np.linspace(-10, 10, 4001)
        p = 1 / (1 + (1 - share) / share * np.exp(-tau * grid))
        mixed = binom.sf(hits - 1, drawn, p) @ student.pdf(grid, MANY) * (grid[1] - grid[0])
        all_hits = share * (total - drawn) + hits
        alone = hypergeometric_tail(hits, all_hits, drawn, total)
        table = tuple(np.array([n], float) for n in (hits, all_hits, drawn, total))
        found = odds_tail(np.atleast_1d(alone), table, np.array([tau]), MANY)[0]

        assert found >= math.log(mixed) - 0.3
        assert found <= math.log(mixed) + 1.5


def test_without_an_effect_the_documents_decide():
    alone = hypergeom.logsf(79, 5000, 200, 1000)
    table = tuple(np.array([n], float) for n in (80, 200, 1000, 5000))
    assert odds_tail(np.array([alone]), table, np.zeros(1), 5.0)[0] == alone
    nearly = odds_tail(np.array([alone]), table, np.array([1e-4]), 5.0)[0]
    assert alone <= nearly <= alone + 3
