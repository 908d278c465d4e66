"""Rows that no batch has, set aside for what must be measured on rows that were not trained on.

They are some rows of every chunk, or of chunks at equal distances where there are many. So they
come from the documents that are trained on, and take few reads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.uint32]

LARGEST_SHARE = 0.05
_MOST_CHUNKS = 512
_SEED = 0xA51DE


class Aside:
    """`wanted` of the rows of chunks of these `sizes`, or a twentieth where that is less.

    Which rows these are depends on sizes and `wanted` alone.
    """

    def __init__(self, sizes: Counts, wanted: int) -> None:
        self._sizes = sizes
        wanted = min(wanted, int(LARGEST_SHARE * sizes.sum(dtype=np.int64)))
        # Fewer than twice _MOST_CHUNKS of them, however many chunks there are.
        chosen = np.arange(0, len(sizes), max(1, len(sizes) // _MOST_CHUNKS))
        sums = np.cumsum(sizes[chosen], dtype=np.int64)
        share = wanted / sums[-1] if len(sums) and sums[-1] else 0.0
        counts = np.diff((sums * min(share, 0.5)).astype(np.int64), prepend=0)
        self._count = dict(
            zip(chosen[counts > 0].tolist(), counts[counts > 0].tolist(), strict=True)
        )

    @property
    def chunks(self) -> list[int]:
        """Numbers of the chunks that have such rows."""
        return list(self._count)

    def left(self) -> Counts:
        """Rows of each chunk that are not set aside [chunks]."""
        left = self._sizes.copy()
        for number, count in self._count.items():
            left[number] -= count
        return left

    def rows(self, number: int) -> Bools:
        """Which rows of a chunk are set aside [rows of the chunk]."""
        size, count = int(self._sizes[number]), self._count.get(number, 0)
        found = np.zeros(size, dtype=bool)
        if count:
            order = np.random.default_rng([_SEED, number]).permutation(size)
            found[order[:count]] = True
        return found
