"""The picking of largest entries, entries at places, and sums over columns, against dense ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from bathyscope.studies.sparse_rows import (
    SparseTotal,
    among_largest,
    column_dots,
    entries_at,
    pack_sparse,
    unpack_sparse,
)


def sparse(shape, *, seed, share=0.3):
    rng = np.random.default_rng(seed)
    return csr_array(np.where(rng.random(shape) < share, rng.random(shape), 0))


@pytest.mark.parametrize("most", [1, 3, 50])
def test_the_largest_of_each_group(most: int) -> None:
    rng = np.random.default_rng(most)
    groups = rng.integers(9, size=700)
    # Many sizes, ties and zeros.
    values = np.round(rng.random(700) ** 12, 4) * rng.choice([1, 1e-9], size=700)
    kept = among_largest(groups, values, most)
    for group in range(9):
        places = np.flatnonzero(groups == group)
        wanted = places[np.argsort(-values[places], kind="stable")[:most]]
        assert np.array_equal(np.flatnonzero(kept & (groups == group)), np.sort(wanted))


def test_no_entries() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert among_largest(nothing, np.zeros(0), 3).tolist() == []
    assert column_dots(sparse((4, 3), seed=0), sparse((4, 2), seed=1), nothing, nothing).size == 0
    assert entries_at(csr_array((2, 3)), np.array([0]), np.array([2])).tolist() == [0]


def test_entries_and_dots_at_places() -> None:
    a, b = sparse((30, 7), seed=1), sparse((30, 5), seed=2)
    in_a, in_b = np.divmod(np.arange(35), 5)
    dots = column_dots(a, b, in_a, in_b)
    assert dots == pytest.approx((a.toarray().T @ b.toarray()).ravel(), abs=1e-14)
    rows, columns = np.divmod(np.arange(210), 7)
    assert np.array_equal(entries_at(a, rows, columns), a.toarray().ravel())
    assert np.array_equal(unpack_sparse(pack_sparse(a)).toarray(), a.toarray())


@pytest.mark.parametrize("patience", [0, 40, 10_000])
def test_a_total_does_not_depend_on_when_it_adds(patience: int) -> None:
    parts = [sparse((20, 6), seed=seed) for seed in range(6)]
    total = SparseTotal((20, 6), patience=patience)
    for part in parts:
        total.add(part)
    wanted = sum(part.toarray() for part in parts)
    assert total.value.toarray() == pytest.approx(wanted, abs=1e-14)
    assert total.num_added == total.value.nnz
