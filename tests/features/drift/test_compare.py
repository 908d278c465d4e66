import math

import numpy as np
import pytest

from bathyscope.features.drift.changes import Floors
from bathyscope.features.drift.compare import compare, holm
from bathyscope.features.drift.documents import Scales
from bathyscope.features.drift.reference import Reference
from bathyscope.features.drift.totals import Totals
from drift_nights import night_of, random_night, reference_of

NO_FLOORS = Floors(density_ratio=1.0, density=0.0, activation_ratio=1.0, series_ratio=1.0)
SHARES = np.geomspace(0.002, 0.9, 60)


def nights(rng, *sizes, **changes):
    return [random_night(rng, size, SHARES, **changes) for size in sizes]


def test_planted_changes_are_found_and_ordered_by_their_credible_size():
    rng = np.random.default_rng(0)
    reference = reference_of(nights(rng, 1000, 1000))
    shares, firings, strength = SHARES.copy(), np.full(60, 4.0), np.ones(60)
    shares[40], shares[45] = 0.0, shares[45] * 2.5
    firings[50], strength[55] = 16.0, 1.7
    night = random_night(rng, 1000, shares, firings=firings, strength=strength)
    found = compare(night, reference)

    assert found.raised
    kinds = {change.latent: change.kind for change in found.latents}
    assert kinds == {40: "vanished", 45: "more", 50: "more", 55: "stronger"}
    assert found.latents[0].latent == 40
    sizes = [change.credible for change in found.latents]
    assert sizes == sorted(sizes, reverse=True)
    by_latent = {change.latent: change for change in found.latents}
    assert by_latent[45].low < by_latent[45].ratio < by_latent[45].high
    assert by_latent[45].ratio == pytest.approx(2.5, rel=0.3)
    assert by_latent[55].ratio == pytest.approx(1.7, rel=0.1)
    assert by_latent[40].documents[1] == 0
    assert by_latent[40].density[1] == 0.0
    assert all(change.p <= 1e-4 for change in found.latents)
    assert found.num_tests == 3 * 60 + 4
    assert not any(series.changed for series in found.series)


def test_a_latent_that_no_earlier_night_had_is_new():
    rng = np.random.default_rng(1)
    shares = SHARES.copy()
    shares[30] = 0.0
    reference = reference_of([random_night(rng, 2000, shares) for _ in range(2)])
    found = compare(random_night(rng, 2000, SHARES), reference)

    assert [(change.latent, change.kind) for change in found.latents] == [(30, "new")]
    assert found.latents[0].density[0] == 0.0


@pytest.mark.parametrize("earlier", [1, 4])
def test_fresh_nights_of_one_source_raise_nothing(earlier):
    # 40 nights with bursty latents and skewed lengths: at 0.05 two of them at most are expected.
    rng = np.random.default_rng(2 + earlier)
    raised = {1e-4: 0, 0.05: 0}
    for _ in range(40):
        *old, night = nights(rng, *[150] * earlier, 150)
        for error in raised:
            found = compare(night, reference_of(old), error=error, floors=NO_FLOORS)
            raised[error] += found.raised
    assert raised[1e-4] == 0
    assert raised[0.05] <= 6


def test_nights_that_differ_of_themselves_need_earlier_ones():
    # Each night draws its own shares around those of the source.
    rng = np.random.default_rng(7)

    def night():
        odds = np.log(SHARES / (1 - SHARES)) + 0.5 * rng.normal(size=60)
        return random_night(rng, 1000, 1 / (1 + np.exp(-odds)))

    one, many = 0, 0
    for _ in range(5):
        old = [night() for _ in range(6)]
        new = night()
        one += compare(new, reference_of(old[:1])).raised
        many += compare(new, reference_of(old)).raised
    assert one >= 4
    assert many == 0
    # And what is large beside that is still found.
    shares = np.where(np.arange(60) == 45, 0.0, SHARES)
    gone = compare(random_night(rng, 1000, shares), reference_of(old))
    assert [change.latent for change in gone.latents] == [45]


def test_one_heavy_document_is_no_drift():
    rng = np.random.default_rng(8)
    reference = reference_of(nights(rng, 800, 800))
    heavy = night_of([[10_000] + [0] * 59], np.array([10_000]), ratios=np.array([1.0]))
    night = nights(rng, 800)[0]
    night.merge(heavy)

    found = compare(night, reference)
    assert not found.raised
    # The plain density of latent 0 has risen all the same, by far.
    tokens = night.tokens
    assert night.firings[0] / tokens > 10 * reference.totals.firings[0] / reference.totals.tokens


def test_a_worse_reconstruction_and_longer_documents_are_told_of_the_night():
    rng = np.random.default_rng(9)
    reference = reference_of(nights(rng, 1000, 1000))
    worse = compare(nights(rng, 1000, fvu=0.13)[0], reference)
    assert [series.name for series in worse.series if series.changed] == ["fvu"]
    fvu = worse.series[3]
    assert fvu.low < 1.3 < fvu.high
    assert worse.fvu[1] / worse.fvu[0] == pytest.approx(1.3, rel=0.05)
    assert worse.latents == []

    longer = compare(nights(rng, 1000, length=2.0)[0], reference)
    assert longer.series[0].changed
    assert longer.series[0].ratio == pytest.approx(2.0, rel=0.1)
    assert "times the tokens" in longer.notes[-1]


def test_series_of_uneven_nights_raise_nothing_and_large_changes_are_found():
    # FVU of each night is its own by 10 %, far more than a thousand documents differ by.
    rng = np.random.default_rng(14)

    def night(fvu=0.1):
        return random_night(rng, 1000, SHARES, fvu=fvu * math.exp(0.1 * rng.normal()))

    raised = []
    for number in range(20):
        found = compare(night(), reference_of([night() for _ in range(3 + number % 4)]))
        raised += [series.name for series in found.series if series.changed]
    assert raised == []
    steady = reference_of(nights(rng, *[1000] * 6))
    found = compare(random_night(rng, 1000, SHARES, fvu=0.2), steady)
    assert [series.name for series in found.series if series.changed] == ["fvu"]


def test_small_changes_are_credible_and_below_the_floor():
    rng = np.random.default_rng(10)
    reference = reference_of(nights(rng, 5000, 5000))
    night = random_night(rng, 10_000, np.minimum(1.15 * SHARES, 1.0))
    assert compare(night, reference).latents == []
    assert len(compare(night, reference, floors=NO_FLOORS).latents) > 5


def test_notes_say_when_nights_are_too_few():
    rng = np.random.default_rng(11)
    old = nights(rng, 100, 100, 100)
    assert "1 earlier night(s)" in compare(old[0], reference_of(old[1:2])).notes[0]
    three = compare(old[0], reference_of([*old[1:], old[0]]))
    assert "3 earlier nights do not tell how much FVU" in three.notes[0]
    assert compare(old[0], reference_of([*old, *old])).notes == []


def test_a_night_without_reconstruction_compares_its_latents():
    counts = np.random.default_rng(12).binomial(1, 0.2, size=(50, 3))
    found = compare(
        night_of(counts, np.full(50, 9)), reference_of([night_of(counts, np.full(50, 9))])
    )
    assert [math.isnan(series.ratio) for series in found.series] == [False, False, True, True]
    assert math.isnan(found.fvu[0])
    assert not found.raised


def test_single_documents_and_silent_nights_raise_nothing_and_do_not_fail():
    one = night_of([[1, 0, 2]], np.array([5]), ratios=np.array([0.5]))
    silent = night_of([[0, 0, 0]] * 4, np.full(4, 5))
    for night, old in ((one, silent), (silent, one), (one, one), (silent, silent)):
        assert not compare(night, reference_of([old])).raised


def test_what_cannot_be_compared_is_refused():
    rng = np.random.default_rng(13)
    night = nights(rng, 10)[0]
    with pytest.raises(ValueError, match="need documents"):
        compare(night, Reference())
    with pytest.raises(ValueError, match="need documents"):
        compare(Totals(60, night.scales), reference_of([night]))
    with pytest.raises(ValueError, match="no documents: leave it out"):
        reference_of([Totals(60, night.scales)])
    with pytest.raises(ValueError, match="one dictionary"):
        compare(
            Totals.from_arrays(night_of([[1]], np.array([3])).to_arrays()), reference_of([night])
        )
    other = Totals(60, Scales(3.0, 1.0))
    with pytest.raises(ValueError, match="one choice of scales"):
        night.merge(other)
    with pytest.raises(ValueError, match="family-wise error between 0 and 1"):
        compare(night, reference_of([night]), error=0.0)
    with pytest.raises(ValueError, match="ratios of at least 1"):
        compare(night, reference_of([night]), floors=Floors(density_ratio=0.5))


def test_holm_by_hand():
    # Four tests, three given: 4 · 0.01, 3 · 0.02 and 2 · 0.2 of half the error.
    found = holm(np.log([0.02, 0.01, 0.2]), 4, 0.5)
    assert found == pytest.approx([0.12, 0.08, 0.8])
    # Never below a smaller one's.
    assert holm(np.log([0.01, 0.0101]), 2, 1.0) == pytest.approx([0.02, 0.02])
