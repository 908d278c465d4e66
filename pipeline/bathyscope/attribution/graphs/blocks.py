"""Rows of a graph, read in blocks of about the same number of entries.

Blocks follow from the rows that are asked for and from nothing else: sums over blocks have the
same last bit wherever the entries lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bathyscope.attribution.graphs.graph import Bools, Entries, Floats, Graph, Ints


class Block(NamedTuple):
    """Entries of some rows, one row after the other."""

    rows: Ints
    """Targets [b]."""
    starts: Ints
    """Where in the graph's entries each row begins [b]."""
    lengths: Ints
    """Entries of each row [b]."""
    indices: npt.NDArray[np.int32]
    """Sources [m]."""
    values: npt.NDArray[np.float32]
    """A[t, s] [m]."""

    def mass(self) -> Floats:
        """|A[t, s]| in float64 [m]."""
        mass = self.values.astype(np.float64)
        return np.abs(mass, out=mass)

    def spread(self, per_row: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A number of each row [b], at each of its entries [m]."""
        return np.repeat(per_row, self.lengths)

    def sums(self, entries: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sums of entries [m] over each row [b]."""
        return self._reduce(np.add, entries)

    def any(self, entries: Bools) -> Bools:
        """Whether any entry [m] of each row holds [b]."""
        return self._reduce(np.logical_or, entries)

    def positions(self) -> Ints:
        """Place of each entry among those of the graph [m]."""
        ends = np.cumsum(self.lengths)
        return self.spread(self.starts - (ends - self.lengths)) + np.arange(len(self.indices))

    def _reduce(self, function: np.ufunc, entries: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found = np.zeros(len(self.rows), dtype=entries.dtype)
        filled = np.flatnonzero(self.lengths)
        if len(filled):
            first = np.cumsum(self.lengths) - self.lengths
            found[filled] = function.reduceat(entries, first[filled])
        return found


def block_entries(num_nodes: int) -> int:
    """Entries of a block: enough that what is done once per block and node is cheap."""
    return max(2**18, 4 * num_nodes)


def row_blocks(graph: Graph, rows: Ints, *, max_rows: int | None = None) -> Iterator[Block]:
    """Go over rows, which ascend, in blocks of whole rows."""
    starts, stops = graph.indptr[rows], graph.indptr[rows + 1]
    ends = np.cumsum(stops - starts)
    limit = block_entries(graph.num_nodes)
    first, before = 0, 0
    while first < len(rows):
        last = max(int(np.searchsorted(ends, before + limit, side="right")), first + 1)
        if max_rows is not None:
            last = min(last, first + max_rows)
        part = slice(first, last)
        pieces = _pieces(starts[part], stops[part])
        yield Block(
            rows[part],
            starts[part],
            stops[part] - starts[part],
            _read(graph.indices, pieces, np.int32),
            _read(graph.values, pieces, np.float32),
        )
        first, before = last, int(ends[last - 1])


def _pieces(starts: Ints, stops: Ints) -> list[slice]:
    """Ranges that hold the entries of all rows; neighbours are read at once."""
    cuts = np.flatnonzero(starts[1:] != stops[:-1]) + 1
    firsts = starts[np.concatenate([[0], cuts])]
    lasts = stops[np.concatenate([cuts - 1, [len(stops) - 1]])]
    return [slice(a, b) for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True)]


def _read(entries: Entries, pieces: list[slice], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    if len(pieces) == 1:
        return np.asarray(entries[pieces[0]], dtype=dtype)
    return np.concatenate([np.asarray(entries[piece], dtype=dtype) for piece in pieces])
