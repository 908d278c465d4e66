"""Rows that are set aside: how many, from where, and always the same ones."""

import numpy as np
import pytest

from bathyscope.stores.aside import Aside


def counts(sizes, wanted):
    sizes = np.array(sizes, dtype=np.uint32)
    aside = Aside(sizes, wanted)
    return aside, sizes - aside.left()


@pytest.mark.parametrize("wanted", [0, 1, 7, 50])
def test_as_many_rows_as_are_wanted_spread_over_chunks(wanted):
    _, taken = counts([100] * 10, wanted)
    assert taken.sum() == pytest.approx(wanted, abs=1)
    assert taken.max() - taken.min() <= 1


def test_a_twentieth_at_most():
    _, taken = counts([100] * 10, 10**9)
    assert taken.tolist() == [5] * 10


def test_of_many_chunks_few_are_read():
    aside, taken = counts([1000] * 100_000, 65_536)
    assert taken.sum() == pytest.approx(65_536, abs=1)
    assert 512 <= len(aside.chunks) < 1024
    assert np.ptp(np.diff(aside.chunks)) == 0


def test_the_rows_of_a_chunk_are_its_count_and_stay_the_same():
    aside, taken = counts([100, 0, 37, 100], 10)
    again = Aside(np.array([100, 0, 37, 100], dtype=np.uint32), 10)
    for number, count in enumerate(taken.tolist()):
        rows = aside.rows(number)
        assert rows.sum() == count
        assert np.array_equal(rows, again.rows(number))
    assert not np.array_equal(aside.rows(0), aside.rows(3))


def test_no_chunks_and_empty_chunks_give_nothing():
    assert counts([], 10)[0].chunks == []
    assert counts([0, 0], 10)[0].chunks == []
