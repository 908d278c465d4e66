"""A set of 64-bit hashes in one numpy array: open addressing over buckets of a cache line.

A Python set of integers takes about 80 bytes per hash; this takes 12 to 24 and looks up and adds
whole arrays. Hashes only ever come in, so a bucket fills from the left, and the search for a hash
ends at the first bucket that is not full. A document brings too few hashes for array operations to
pay, so new ones wait in a Python set until there are many.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# 2**64 / golden ratio, odd. Buckets are the top bits of the product, which all bits reach.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_EMPTY = np.uint64(0)
_BUCKET_SLOTS = 8  # of 8 bytes: a cache line, so a lookup mostly waits for memory once
_MAX_LOAD = 2 / 3
_REHASH_BUCKETS = 2**17
_MAX_RECENT = 2**16  # about 6 MB


class GramTable:
    """A growing set of uint64: at most two thirds of its slots, at 8 bytes each, are taken."""

    def __init__(self) -> None:
        self._buckets = _allocated(num_bits=9)
        self._num_settled = 0
        self._recent: set[int] = set()

    @property
    def num_hashes(self) -> int:
        """Distinct hashes that were added."""
        self._settle()
        return self._num_settled

    @property
    def num_bytes(self) -> int:
        """Memory that the buckets take, empty slots included."""
        return self._buckets.nbytes

    def contains(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Say for each hash [n] whether it was added before: bool [n]."""
        wanted = _without_empty(hashes)
        is_recent = map(self._recent.__contains__, wanted.tolist())
        found = np.fromiter(is_recent, dtype=np.bool_, count=len(wanted))
        index = np.arange(len(wanted))
        at = self._home(wanted)
        while index.size:
            rows = self._buckets[at]
            is_here = (rows == wanted[index, None]).any(axis=1)
            found[index] |= is_here
            onward = ~is_here & (rows[:, -1] != _EMPTY)
            index, at = index[onward], self._after(at[onward])
        return found

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Add hashes [n]; repeats, and those already there, change nothing."""
        self._recent.update(_without_empty(hashes).tolist())
        if len(self._recent) >= _MAX_RECENT:
            self._settle()

    def _settle(self) -> None:
        """Move the recent hashes into the buckets."""
        hashes = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
        self._recent.clear()
        while self._num_settled + len(hashes) > _MAX_LOAD * self._buckets.size:
            self._grow()
        self._insert(hashes)

    def _insert(self, hashes: NDArray[np.uint64]) -> None:
        """Insert distinct hashes [n], none of them 0."""
        at = self._home(hashes)
        while hashes.size:
            rows = self._buckets[at]
            is_here = (rows == hashes[:, None]).any(axis=1)
            column = (rows != _EMPTY).sum(axis=1)
            has_room = ~is_here & (column < _BUCKET_SLOTS)
            # Where several hashes want one slot the last one wins; the others try again.
            self._buckets[at[has_room], column[has_room]] = hashes[has_room]
            won = np.zeros_like(is_here)
            won[has_room] = self._buckets[at[has_room], column[has_room]] == hashes[has_room]
            self._num_settled += int(won.sum())
            onward = ~(is_here | won)
            at = np.where(has_room, at, self._after(at))[onward]
            hashes = hashes[onward]

    def _grow(self) -> None:
        previous = self._buckets
        self._buckets = _allocated(num_bits=len(previous).bit_length())
        self._num_settled = 0
        for start in range(0, len(previous), _REHASH_BUCKETS):
            block = previous[start : start + _REHASH_BUCKETS]
            self._insert(block[block != _EMPTY])

    def _home(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        shift = np.uint64(65 - len(self._buckets).bit_length())
        return ((hashes * _SPREAD) >> shift).astype(np.int64)

    def _after(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        return (at + 1) & (len(self._buckets) - 1)


def _allocated(*, num_bits: int) -> NDArray[np.uint64]:
    return np.zeros((2**num_bits, _BUCKET_SLOTS), dtype=np.uint64)


def _without_empty(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Map 0, which marks an empty slot, to 1: one more collision among 2**64."""
    return np.maximum(hashes, np.uint64(1))
