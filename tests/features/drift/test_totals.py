import numpy as np
import pytest

from bathyscope.features.drift.scores import density_class, log_score, ratio_of_scores
from bathyscope.features.drift.totals import Totals
from drift_nights import SCALES, night_of, part_of, random_rows, same_arrays


def nights(count: int) -> list[Totals]:
    return [part_of(random_rows([4, 1, 7], seed=seed)).close() for seed in range(count)]


def test_nights_add_in_any_order():
    first, second, third = nights(3)
    one, other = Totals(6, SCALES), Totals(6, SCALES)
    for night in (first, second, third):
        one.merge(night)
    for night in (third, first, second):
        other.merge(night)

    assert same_arrays(one.to_arrays(), other.to_arrays())
    assert one.documents == 9
    assert one.wide["error_squares"] == sum(night.wide["error_squares"] for night in nights(3))


def test_arrays_give_totals_that_go_on_alone():
    night = nights(1)[0]
    copy = Totals.from_arrays(night.to_arrays())
    assert same_arrays(copy.to_arrays(), night.to_arrays())

    copy.merge(nights(2)[1])
    assert night.documents == 3
    assert copy.documents == 6


def test_sums_beyond_int64_stay_exact():
    night = night_of(np.zeros((2, 1)), np.array([1 << 28, 1 << 28]), ratios=np.array([0.5, 0.25]))
    norm = (1 << 28) * (1 << 24)
    assert night.wide["norm_squares"] == 2 * norm * norm > 1 << 100
    assert Totals.from_arrays(night.to_arrays()).wide == night.wide


def test_sums_that_would_overflow_are_refused():
    night = night_of(np.zeros((4, 1)), np.full(4, 1 << 30))
    with pytest.raises(OverflowError, match="fewer nights"):
        night.merge(Totals.from_arrays(night.to_arrays()))


def test_classes_are_octaves_of_density():
    firings = np.array([1, 1, 499, 500, 501, 1000, 1, 1])
    tokens = np.array([1, 2, 1000, 1000, 1000, 1000, 2048, 1_000_000])
    assert density_class(firings, tokens).tolist() == [12, 12, 11, 12, 12, 12, 2, 1]


def test_log_scores_are_octaves_and_cut():
    scores = log_score(np.array([2.0, 1.0, 0.0, -3.0, 1e30, 1e-30]), np.array([1.0] * 6))
    assert scores.tolist() == [64, 0, -1024, -1024, 1024, -1024]
    assert ratio_of_scores(-32) == pytest.approx(2**-0.5)


def test_one_document_counts_once_however_long_it_is():
    counts = np.array([[10_000], [1], [0]])
    found = night_of(counts, np.array([10_000, 400, 400]))
    assert found.classes.sum() == 2
    assert found.activation.sums.tolist() == [0]
