import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bathyscope.stores.unit_ranges import add, as_array, holds

UNITS = st.lists(st.integers(0, 30))


@given(UNITS, UNITS)
def test_ranges_are_the_set_of_what_was_added(first, second):
    ranges = add(add([], first), second)
    wanted = sorted({*first, *second})

    assert as_array(ranges).tolist() == wanted
    assert [unit for unit in range(-1, 32) if holds(ranges, unit)] == wanted
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges)), "as few as can be"


def test_a_million_units_in_order_are_one_range():
    assert add([[0, 999_999]], [999_999]) == [[0, 1_000_000]]
    assert as_array([]).dtype == np.int64
