"""Top-k latents of rows as SciPy sparse matrices: the join of two models' active latents.

A product of two of them visits only latents that are active together; nothing is ever dense.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from bathyscope.metrics.arrays import pack, unpack
from bathyscope.metrics.finite import require_finite

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# Column pairs gathered at once; each column has up to a few thousand entries.
_GATHERED = 1 << 14
_BINS = 32


class SparseTotal:
    """A running sum of sparse matrices of one shape, float64.

    An addition costs as much as the larger of two, so new ones wait until together they hold as
    many entries as the sum, and at least `patience`.
    """

    def __init__(self, shape: tuple[int, int], *, patience: int = 1 << 24) -> None:
        self.shape = shape
        self._patience = patience
        self._sum = csr_array(shape, dtype=np.float64)
        self._waiting: list[csr_array] = []

    @property
    def value(self) -> csr_array:
        """The sum of all matrices so far."""
        self._fold()
        return self._sum

    @property
    def num_added(self) -> int:
        """Entries of the sum, without those that wait."""
        return int(self._sum.nnz)

    def add(self, matrix: csr_array) -> None:
        """Add a matrix."""
        self._waiting.append(matrix)
        waiting = sum(one.nnz for one in self._waiting)
        if waiting > max(self._sum.nnz, self._patience):
            self._fold()

    def put(self, matrix: csr_array) -> None:
        """Take `matrix` for the sum."""
        self._sum = matrix
        self._waiting.clear()

    def _fold(self) -> None:
        for matrix in self._waiting:
            self._sum = csr_array(self._sum + matrix)
        self._waiting.clear()


def sparse_rows(values: Tensor, indices: Tensor, num_latents: int, *, name: str) -> csr_array:
    """Return float64 [rows, latents] of top-k latents [rows, k]; value 0 is padding.

    Raises `NonFiniteError` for NaN or infinity, `ValueError` for other shapes, a negative value,
    or an index outside the latents in a slot that fires.
    """
    if values.ndim != 2 or values.shape != indices.shape:
        raise ValueError(
            f"values of {name} are {list(values.shape)} and indices {list(indices.shape)}: wanted "
            "both as [rows, k]"
        )
    require_finite(f"values of {name}", values)
    dense = values.detach().double().cpu().numpy()
    row, slot = np.nonzero(dense)
    data, latents = dense[row, slot], indices.detach().cpu().numpy()[row, slot].astype(np.int64)
    if len(data) and data.min() < 0:
        raise ValueError(
            f"{name} has the activation {data.min()}: wanted none below 0, so that latents which "
            "are never active together have a correlation below 0"
        )
    if len(data) and not 0 <= latents.min() <= latents.max() < num_latents:
        raise ValueError(
            f"indices of {name} run from {latents.min()} to {latents.max()}: wanted 0 to "
            f"{num_latents - 1}; the rows belong to a dictionary of another size"
        )
    return csr_array(coo_array((data, (row, latents)), shape=(len(dense), num_latents)))


def column_sums(matrix: csr_array) -> tuple[Floats, Floats, Integers]:
    """Σa, Σa² and how many rows are not 0, per column."""
    width = matrix.shape[1]
    return (
        _weighted(matrix.indices, matrix.data, width),
        _weighted(matrix.indices, matrix.data**2, width),
        np.bincount(matrix.indices, minlength=width).astype(np.int64),
    )


def rows_of_entries(matrix: csr_array) -> Integers:
    """The row of each stored entry [entries]."""
    return np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))


def among_largest(groups: Integers, values: Floats, most: int) -> NDArray[np.bool_]:
    """Which entries are among the `most` largest of their group; of equal ones, the first.

    `groups` [entries] in any order, `values` [entries] at least 0.
    """
    kept = np.zeros(len(groups), dtype=bool)
    # Sorting is the slow part: most entries are far too small to need it.
    places = np.flatnonzero(_may_be_largest(groups, values, most))
    some = groups[places]
    order = np.lexsort((-values[places], some))
    starts = np.concatenate([[True], np.diff(some[order]) != 0])[: len(order)]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    kept[places[order]] = np.arange(len(order)) - first < most
    return kept


def _may_be_largest(groups: Integers, values: Floats, most: int) -> NDArray[np.bool_]:
    """Entries in the bins of each group that hold its `most` largest; bins are half octaves."""
    mantissa, exponent = np.frexp(values)
    bins = np.clip(-2 * exponent + (mantissa < 0.75), 0, _BINS - 1)
    bins = np.where(values > 0, bins, _BINS - 1)
    num = int(groups.max(initial=-1)) + 1
    counts = np.bincount(groups * _BINS + bins, minlength=num * _BINS).reshape(num, _BINS)
    last = (counts.cumsum(axis=1) < most).sum(axis=1)
    return bins <= last[groups]


def entries_at(matrix: csr_array, rows: Integers, columns: Integers) -> Floats:
    """The entries at (rows, columns) [pairs], 0 where none is stored."""
    width = matrix.shape[1]
    keys = rows_of_entries(matrix) * width + matrix.indices
    order = np.argsort(keys, kind="stable")
    wanted = rows * width + columns
    place = np.searchsorted(keys, wanted, sorter=order)
    found = order[np.minimum(place, max(len(order) - 1, 0))] if len(order) else order
    if not len(order):
        return np.zeros(len(wanted))
    return np.where(keys[found] == wanted, matrix.data[found], 0.0)


def column_dots(a: csr_array, b: csr_array, in_a: Integers, in_b: Integers) -> Floats:
    """Σ_t a[t, in_a[p]] · b[t, in_b[p]] for each pair p [pairs]."""
    columns_a, columns_b = a.tocsc(), b.tocsc()
    dots = [
        columns_a[:, in_a[some]].multiply(columns_b[:, in_b[some]]).sum(axis=0)
        for some in _chunks(len(in_a))
    ]
    return np.concatenate(dots) if dots else np.zeros(0)


def pack_sparse(matrix: csr_array) -> dict[str, Any]:
    """Return a dict of plain JSON values that holds the matrix."""
    parts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    return {"shape": list(matrix.shape), **{name: pack(part) for name, part in parts.items()}}


def unpack_sparse(record: dict[str, Any]) -> csr_array:
    """Return the matrix that `pack_sparse` was given."""
    parts = tuple(unpack(record[name]) for name in ("data", "indices", "indptr"))
    return csr_array(parts, shape=tuple(record["shape"]))


def _weighted(places: Integers, weights: Floats, length: int) -> Floats:
    return np.bincount(places, weights=weights, minlength=length).astype(np.float64)


def _chunks(num: int) -> Iterator[slice]:
    for start in range(0, num, _GATHERED):
        yield slice(start, start + _GATHERED)
