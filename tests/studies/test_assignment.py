"""Sparse assignment against the dense one, and the auction against its bound."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from bathyscope.studies.assignment import EPSILON, assign


def graph(num_rows, num_columns, *, degree, seed):
    rng = np.random.default_rng(seed)
    dense = np.where(
        rng.random((num_rows, num_columns)) < degree / num_columns,
        rng.random((num_rows, num_columns)),
        0,
    )
    rows, columns = np.nonzero(dense)
    return dense, rows, columns, dense[rows, columns]


@pytest.mark.parametrize("shape", [(60, 60), (40, 90), (90, 40)])
@pytest.mark.parametrize("degree", [1, 5, 40])
def test_the_sum_is_that_of_the_dense_assignment(shape: tuple[int, int], degree: int) -> None:
    dense, rows, columns, scores = graph(*shape, degree=degree, seed=degree)
    best = dense[linear_sum_assignment(dense, maximize=True)].sum()
    for exact_rows in (10_000, 0):
        found = assign(
            rows,
            columns,
            scores,
            num_rows=shape[0],
            num_columns=shape[1],
            exact_rows=exact_rows,
        )
        taken = found.partners[found.partners >= 0]
        assert len(np.unique(taken)) == len(taken)
        paired = np.flatnonzero(found.partners >= 0)
        assert np.array_equal(found.scores[paired], dense[paired, taken])
        assert not found.scores[found.partners < 0].any()
        lost = best - found.scores.sum()
        assert -1e-9 < lost <= (1e-9 if exact_rows else shape[0] * EPSILON)
        assert (found.num_auctioned > 0) == (exact_rows == 0)


def test_many_small_parts_are_solved_together() -> None:
    # 3,000 parts of two rows that want one column: the better one gets it.
    rows = np.arange(6000)
    columns = rows // 2
    scores = np.where(rows % 2 == 0, 0.4, 0.6)
    found = assign(rows, columns, scores, num_rows=6000, num_columns=3000)
    assert np.array_equal(found.partners[1::2], np.arange(3000))
    assert (found.partners[::2] == -1).all()


def test_ties_give_each_row_one_column() -> None:
    rows, columns = np.divmod(np.arange(16), 4)
    for exact_rows in (10, 0):
        found = assign(
            rows, columns, np.full(16, 0.5), num_rows=4, num_columns=4, exact_rows=exact_rows
        )
        assert sorted(found.partners.tolist()) == [0, 1, 2, 3]


def test_no_pairs_and_bad_scores() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    found = assign(nothing, nothing, np.zeros(0), num_rows=3, num_columns=2)
    assert found.partners.tolist() == [-1, -1, -1]
    zero = np.zeros(1, dtype=np.int64)
    with pytest.raises(ValueError, match=r"from -0\.5 to -0\.5: wanted above 0"):
        assign(zero, zero, np.array([-0.5]), num_rows=1, num_columns=1)
