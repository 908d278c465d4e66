import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope.errors import NonFiniteError
from bathyscope.features import statistics
from bathyscope.features.statistics import LatentStatistics

VALUES = np.array([[1.0, 3.0], [2.0, 0.0], [5.0, 0.25]], dtype=np.float32)
INDICES = np.array([[0, 2], [2, 0], [2, 0]])


def measured(values, indices, **settings):
    made = LatentStatistics(4, scale=1.0, **settings)
    made.update(values, indices)
    return made


def random_rows(num_rows, *, seed=0):
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.permutation(4)[:2] for _ in range(num_rows)])
    values = np.exp2(rng.normal(size=(num_rows, 2))).astype(np.float32)
    values[rng.random((num_rows, 2)) < 0.3] = 0
    return values, indices


def same_arrays(left, right):
    assert left.keys() == right.keys()
    return all(np.array_equal(left[name], right[name]) for name in left)


def test_figures_worked_by_hand():
    found = measured(VALUES, INDICES)

    assert found.num_rows == 3
    assert found.counts.tolist() == [2, 0, 3, 0]
    assert found.sums.tolist() == [1.25, 0, 10, 0]
    assert found.square_sums.tolist() == [1.0625, 0, 38, 0]
    assert found.maxima.tolist() == [1.0, -math.inf, 5.0, -math.inf]
    assert found.means()[[0, 2]].tolist() == [0.625, pytest.approx(10 / 3)]
    assert found.deviations()[2] == pytest.approx(math.sqrt(38 / 3 - 100 / 9))
    assert np.isnan(found.means()[[1, 3]]).all()
    assert np.isnan(found.deviations()[[1, 3]]).all()


def test_bins_are_octaves_of_the_scale():
    # Two bins per octave from 2^-1 to 2^1: edges ½, 0.71, 1, 1.41, 2 times the scale of 10.
    made = LatentStatistics(1, scale=10.0, num_bins=4, bins_per_octave=2, lowest_octave=-1)
    fired = np.array([5.0, 7.0, 7.2, 10.0, 14.0, 15.0, 20.0, 1e6, 1e-6, -3.0], dtype=np.float32)
    made.update(fired[:, None], np.zeros((10, 1), dtype=np.int64))

    assert made.edges() == pytest.approx(10 * 2.0 ** np.array([-1, -0.5, 0, 0.5, 1]))
    # The ends take what lies outside: 1e-6 and -3 below, 20 and 1e6 above.
    assert made.histogram.tolist() == [[4, 1, 2, 3]]
    assert made.maxima.tolist() == [1e6]


@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(0, 40), cut=st.integers(0, 40), seed=st.integers(0, 5))
def test_merged_parts_equal_the_whole(num_rows, cut, seed):
    if num_rows == 0:
        values, indices = np.zeros((0, 2), np.float32), np.zeros((0, 2), np.int64)
    else:
        values, indices = random_rows(num_rows, seed=seed)
    whole = measured(values, indices).to_arrays()
    merged = measured(values[cut:], indices[cut:])
    merged.merge(measured(values[:cut], indices[:cut]))
    found = merged.to_arrays()

    for name in ("counts", "maxima", "histogram", "shape"):
        assert np.array_equal(found[name], whole[name])
    for name in ("sums", "square_sums"):
        assert found[name] == pytest.approx(whole[name], rel=1e-13)


def test_every_firing_is_in_one_bin():
    found = measured(*random_rows(63))

    assert np.array_equal(found.histogram.sum(axis=1), found.counts)


def test_arrays_give_a_state_that_goes_on_alone():
    made = measured(VALUES, INDICES, num_bins=5, bins_per_octave=3, lowest_octave=-2)
    copy = LatentStatistics.from_arrays(made.to_arrays())
    assert same_arrays(copy.to_arrays(), made.to_arrays())

    copy.update(VALUES, INDICES)
    assert made.counts.tolist() == [2, 0, 3, 0]
    assert copy.counts.tolist() == [4, 0, 6, 0]
    assert np.array_equal(copy.edges(), made.edges())


def test_bins_grow_to_int64_before_they_can_overflow(monkeypatch):
    monkeypatch.setattr(statistics, "_LARGEST_INT32", 5)
    found = measured(VALUES, INDICES)
    assert found.histogram.dtype == np.int32

    found.merge(measured(VALUES, INDICES))

    assert found.histogram.dtype == np.int64
    assert found.histogram.sum() == 10


def test_bad_rows_change_nothing():
    found = measured(VALUES, INDICES)
    before = {name: array.copy() for name, array in found.to_arrays().items()}
    with pytest.raises(NonFiniteError):
        found.update(np.array([[np.inf, 1.0]]), np.array([[0, 1]]))
    with pytest.raises(ValueError, match="wanted 0 to 3"):
        found.update(np.array([[1.0, 1.0]]), np.array([[0, 4]]))

    assert same_arrays(found.to_arrays(), before)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="scale is 0"):
        LatentStatistics(4, scale=0.0)
    with pytest.raises(ValueError, match="scale is nan"):
        LatentStatistics(4, scale=float("nan"))
    with pytest.raises(ValueError, match="num_bins 0"):
        LatentStatistics(4, scale=1.0, num_bins=0)
    with pytest.raises(ValueError, match="cannot merge"):
        measured(VALUES, INDICES).merge(LatentStatistics(4, scale=2.0))
