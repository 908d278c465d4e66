import math

import numpy as np
import pytest

from bathyscope.features.drift.effects import (
    activation_ratios,
    densities,
    typical_ratios,
    unexplained,
)
from bathyscope.metrics.bootstrap import bootstrap_ratio
from drift_nights import night_of, random_night

FIRST = np.array([0])


def firings(rng, documents):
    lengths = np.ceil(np.exp(rng.normal(5, 0.5, documents))).astype(np.int64)
    counts = np.where(
        rng.random(documents) < 0.3, np.ceil(0.02 * lengths * rng.random(documents)), 0
    )
    return counts.astype(np.int64), lengths


def test_a_density_by_hand():
    # p = 6 / 20; residuals 4 - 3, 2 - 1.5, 0 - 1.5: squares sum to 3.5; three documents.
    p, error = densities(night_of([[4], [2], [0]], np.array([10, 5, 5])), FIRST)
    assert p.tolist() == [0.3]
    assert error == pytest.approx([math.sqrt(1.5 * 3.5) / 20])


def test_the_standard_error_is_that_of_resampled_documents():
    counts, lengths = firings(np.random.default_rng(0), 400)
    p, error = densities(night_of(counts[:, None], lengths), FIRST)
    drawn = bootstrap_ratio(counts.astype(float), lengths.astype(float), resamples=2000, seed=1)

    assert p[0] == pytest.approx(drawn.estimate)
    assert error[0] == pytest.approx((drawn.high - drawn.low) / (2 * 1.96), rel=0.1)


def test_a_heavy_document_moves_the_plain_density_and_not_the_typical_one():
    counts, lengths = firings(np.random.default_rng(1), 400)
    before = night_of(counts[:, None], lengths)
    after = night_of(np.append(counts, 10_000)[:, None], np.append(lengths, 10_000))

    assert densities(after, FIRST)[0] > 10 * densities(before, FIRST)[0]
    ratios = typical_ratios(after, before, FIRST)
    assert math.exp(ratios.estimates[0]) == pytest.approx(1.0, abs=0.06)
    assert ratios.credible().tolist() == [0.0]


def test_longer_documents_of_one_density_leave_the_typical_one():
    rng = np.random.default_rng(2)
    lengths = rng.integers(100, 900, 40_000)
    rates = np.array([1e-4, 1e-3, 0.2])
    nights = [
        night_of(rng.binomial(n[:, None], rates), n)
        for n in (lengths, np.concatenate([2 * lengths]))
    ]
    ratios = np.exp(typical_ratios(nights[1], nights[0], np.arange(3)).estimates)
    assert ratios == pytest.approx([1, 1, 1], abs=0.12)


def test_intervals_of_typical_ratios_hold_what_they_should():
    rng = np.random.default_rng(3)
    shares = np.full(300, 0.05)
    night, reference = random_night(rng, 2000, 2 * shares), random_night(rng, 4000, shares)
    ratios = typical_ratios(night, reference, np.arange(300))
    holds = (ratios.low() <= math.log(2)) & (math.log(2) <= ratios.high())

    assert 0.9 <= holds.mean() <= 0.99
    assert np.exp(np.median(ratios.estimates)) == pytest.approx(2, rel=0.05)
    assert (ratios.credible() <= np.abs(ratios.estimates)).all()


def test_new_and_vanished_latents_have_finite_ratios():
    some = night_of([[3, 0]] * 40 + [[0, 0]] * 60, np.full(100, 50))
    other = night_of([[0, 3]] * 40 + [[0, 0]] * 60, np.full(100, 50))
    ratios = typical_ratios(some, other, np.arange(2))

    assert np.exp(ratios.estimates) == pytest.approx([81, 1 / 81])
    assert (ratios.credible() > math.log(3)).all()


def test_activation_ratios_are_of_geometric_means():
    rng = np.random.default_rng(4)
    night = random_night(rng, 3000, np.array([0.3]), strength=1.5)
    reference = random_night(rng, 3000, np.array([0.3]), strength=1.0)
    counts = night.firing_documents(), reference.firing_documents()
    found = activation_ratios(night.activation, reference.activation, counts, FIRST)

    assert math.exp(found.estimates[0]) == pytest.approx(1.5, rel=0.05)
    assert found.errors[0] == pytest.approx(0.4 * math.sqrt(2 / 900), rel=0.1)


def test_the_unexplained_share_and_its_error_by_hand():
    # Norms 10 and 30, errors 5 and 3: 8 / 40; residuals 5 - 2 and 3 - 6, two documents.
    fvu, error = unexplained(
        night_of(np.zeros((2, 1)), np.array([10, 30]), ratios=np.array([0.5, 0.1]))
    )
    assert fvu == pytest.approx(0.2)
    assert error == pytest.approx(math.sqrt(2 * 18) / 40)
    assert all(math.isnan(n) for n in unexplained(night_of([[1], [1]], np.array([10, 30]))))
    with pytest.raises(ValueError, match="no documents"):
        densities(night_of(np.zeros((0, 1)), np.zeros(0)), FIRST)
