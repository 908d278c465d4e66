import math

import numpy as np
import pytest

from bathyscope.features.drift.between import (
    UNKNOWN_PRIOR,
    NightSums,
    estimate_spread,
    series_spread,
)


def sums_of(rng, *, nights, documents, latents, tau, share=0.2):
    """Shares of documents whose log odds have an effect of the night of size tau."""
    made = NightSums(latents)
    odds = math.log(share / (1 - share)) + tau * rng.normal(size=(nights, latents))
    for row in odds:
        fired = rng.binomial(documents, 1 / (1 + np.exp(-row)))
        made.add(np.array(documents), fired, fired)
    return made


def spread_of(rng, **case):
    nights = sums_of(rng, **case)
    return estimate_spread(nights, unit="odds", counts=nights.sums / case["nights"])


@pytest.mark.parametrize("tau", [0.1, 0.4])
def test_the_effect_of_nights_is_found(tau):
    found = spread_of(np.random.default_rng(0), nights=5, documents=2000, latents=800, tau=tau)
    assert found.pooled == pytest.approx(tau, rel=0.15)
    assert found.informative == 800
    assert np.median(found.tau) == pytest.approx(tau, rel=0.15)
    assert found.old_share == pytest.approx(np.full(800, 0.2))
    assert found.of_difference() == pytest.approx(found.tau * math.sqrt(1.2))


def test_nights_that_differ_by_their_documents_alone_have_none():
    found = spread_of(np.random.default_rng(1), nights=5, documents=2000, latents=800, tau=0.0)
    assert found.pooled < 0.02
    assert found.degrees.min() > 100
    assert found.tau.max() < 0.05


def test_rare_latents_do_not_make_effects_of_nights_heavy_tailed():
    # Six documents a night: equal counts by chance leave M near 0, which is no sign of nights.
    found = spread_of(
        np.random.default_rng(8), nights=3, documents=500, latents=2000, tau=0.0, share=0.012
    )
    assert found.degrees.tolist() == [UNKNOWN_PRIOR + 2] * 2000
    common = spread_of(
        np.random.default_rng(9), nights=3, documents=500, latents=2000, tau=0.0, share=0.2
    )
    assert common.degrees.min() > 30


def test_latents_of_very_different_effects_have_few_degrees_of_freedom():
    rng = np.random.default_rng(2)
    nights = NightSums(1000)
    tau = np.where(np.arange(1000) < 100, 1.0, 0.05)
    for _ in range(6):
        odds = -1.4 + tau * rng.normal(size=1000)
        fired = rng.binomial(5000, 1 / (1 + np.exp(-odds)))
        nights.add(np.array(5000), fired, fired)
    found = estimate_spread(nights, unit="odds", counts=nights.sums / 6)
    assert found.degrees.max() < 12
    assert np.median(found.tau[:100]) > 4 * np.median(found.tau[100:])


def test_effects_on_log_scores_are_in_their_steps():
    rng = np.random.default_rng(5)
    shifts = NightSums(400)
    for row in 5 * rng.normal(size=(6, 400)):
        scores = row + 20 * rng.normal(size=(300, 400))
        shifts.add(np.array(300), scores.sum(0), (scores**2).sum(0))
    found = estimate_spread(shifts, unit="score", counts=np.full(400, 300.0))
    assert found.pooled == pytest.approx(5, rel=0.1)


def test_a_series_has_its_own_nights_alone():
    rng = np.random.default_rng(6)

    def series(effect):
        nights = NightSums(60)
        for row in effect * rng.normal(size=(6, 60)):
            scores = row + 20 * rng.normal(size=(1000, 60))
            nights.add(np.array(1000), scores.sum(0), (scores**2).sum(0))
        return series_spread(nights)

    differing, steady = series(5.0), series(0.0)
    assert np.sqrt((differing.tau**2).mean()) == pytest.approx(5, rel=0.2)
    # What documents add, 20 / √1000, counts as the nights' own.
    assert np.sqrt((steady.tau**2).mean()) == pytest.approx(0.63, rel=0.2)
    assert steady.degrees.tolist() == [5] * 60
    assert series_spread(NightSums(4)) is None


def test_what_cannot_be_estimated():
    rng = np.random.default_rng(4)
    two = sums_of(rng, nights=2, documents=100, latents=30, tau=0.5)
    assert estimate_spread(two, unit="odds", counts=two.sums) is None
    # Latents that never fire, or fewer than tell anything.
    silent = spread_of(rng, nights=4, documents=100, latents=5, tau=0.0, share=1e-9)
    assert silent.pooled == 0
    assert silent.tau.tolist() == [0] * 5
    few = spread_of(rng, nights=4, documents=1000, latents=5, tau=1.0)
    assert few.degrees.tolist() == [UNKNOWN_PRIOR + 3] * 5
    assert (few.tau > 0).all()
