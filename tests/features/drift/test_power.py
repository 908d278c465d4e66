import math

import numpy as np
import pytest

from bathyscope.features.drift.changes import Floors
from bathyscope.features.drift.compare import compare
from bathyscope.features.drift.power import Design, detectable_ratio, power
from drift_nights import random_night, reference_of

DESIGN = Design(documents=2000, reference_documents=6000, num_latents=1000)


def test_power_is_what_simulated_nights_show():
    rng = np.random.default_rng(0)
    design = Design(400, 1200, 60, tokens=400.0, firings=4.0, error=1e-3)
    density, ratio = 0.05 / 100, 2.4
    wanted = power(design, density, ratio)
    assert 0.4 < wanted < 0.8

    found = []
    shares = np.full(60, 0.05)
    for _ in range(6):
        # Half of the latents have changed. Bursts of one firing leave the test of documents alone.
        changed = np.where(np.arange(60) < 30, ratio, 1.0)
        night = random_night(rng, 400, shares * changed, firings=1e-3)
        reference = reference_of([random_night(rng, 1200, shares, firings=1e-3)])
        reported = {c.latent for c in compare(night, reference, error=1e-3).latents}
        assert reported <= set(range(30))
        found.append(len(reported) / 30)
    assert np.mean(found) == pytest.approx(wanted, abs=0.12)


def test_power_grows_with_documents_and_with_the_change():
    ratios = [power(DESIGN, 1e-3, ratio) for ratio in (1.25, 1.5, 2, 4)]
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.1
    assert ratios[-1] > 0.999
    sizes = [power(DESIGN._replace(documents=n), 1e-4, 2.0) for n in (1000, 10_000, 100_000)]
    assert sizes == sorted(sizes)
    assert power(DESIGN, 1e-3, 0.0) == 1.0
    assert power(DESIGN, 1e-5, 0.0) == 0.0


def test_no_change_has_no_power():
    assert power(DESIGN, 1e-3, 1.0, floors=Floors(density_ratio=1.0)) < 1e-6


def test_the_smallest_ratio_that_is_found():
    ratio = detectable_ratio(DESIGN, 1e-3)
    assert power(DESIGN, 1e-3, ratio) >= 0.9
    assert power(DESIGN, 1e-3, ratio * 0.97) < 0.9
    # Every document would have it, and that is still too few documents.
    assert math.isnan(detectable_ratio(DESIGN._replace(documents=5, reference_documents=5), 1e-3))


def test_impossible_designs_are_refused():
    with pytest.raises(ValueError, match="wanted shares from 0 to 1"):
        power(DESIGN, 0.02, 1.0)
    with pytest.raises(ValueError, match="shares of"):
        power(DESIGN, 0.005, 3.0)
    with pytest.raises(ValueError, match="documents on both sides"):
        power(DESIGN._replace(documents=0), 1e-3, 2.0)


def test_the_floor_that_is_set_bounds_what_is_found() -> None:
    many = DESIGN._replace(documents=10**6, reference_documents=7 * 10**6)
    for floor in (1.25, 1.5, 2.0):
        floors = Floors(density_ratio=floor)
        assert power(many, 1e-3, floor * 0.98, floors=floors) < 0.01
        assert floor < detectable_ratio(many, 1e-3, floors=floors) < floor * 1.03
