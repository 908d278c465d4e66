"""Which edges are kept, at one bit each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bathyscope.attribution.graphs.graph import Bools, Ints


class EdgeMask:
    """A bit per edge, none set at first."""

    def __init__(self, num_edges: int) -> None:
        self.num_edges = num_edges
        self.count = 0
        """Number of edges that are kept."""
        self._bits = np.zeros(-(-num_edges // 8), dtype=np.uint8)

    def keep(self, positions: Ints) -> None:
        """Set the bits of edges at ascending places, none of which is set."""
        self.count += len(positions)
        if not len(positions):
            return
        bytes_, bits = positions >> 3, np.left_shift(1, positions & 7)
        first, last = int(bytes_[0]), int(bytes_[-1])
        # Every bit of a byte comes once, so their sum is the byte.
        sums = np.bincount(bytes_ - first, weights=bits, minlength=last + 1 - first)
        self._bits[first : last + 1] |= sums.astype(np.uint8)

    def at(self, positions: Ints) -> Bools:
        """Whether the edges at these places are kept."""
        return (self._bits[positions >> 3] >> (positions & 7).astype(np.uint8)) & 1 == 1

    def positions(self) -> Ints:
        """Places of the edges that are kept, ascending."""
        found = list(self._parts())
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def count_both(self, other: EdgeMask) -> int:
        """Number of edges that both keep."""
        step = 2**20
        parts = range(0, len(self._bits), step)
        both = (self._bits[a : a + step] & other._bits[a : a + step] for a in parts)
        return sum(int(np.unpackbits(part).sum(dtype=np.int64)) for part in both)

    def _parts(self, size: int = 2**20) -> Iterator[Ints]:
        for start in range(0, len(self._bits), size):
            bits = np.unpackbits(self._bits[start : start + size], bitorder="little")
            yield np.flatnonzero(bits) + 8 * start
