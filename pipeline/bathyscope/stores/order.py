"""The order of shuffled reads: a pure function of (seed, epoch, step).

Chunks are permuted and dealt to virtual streams; each stream is cut into windows of whole
chunks, and the rows of a window are permuted. A batch takes an equal share of every stream, in
stream order. Any step is reached by reading at most two windows per stream; ranks own whole
streams, so the rows of a step do not depend on how many ranks share the work.

The first window of a stream is shorter, by another number of chunks for each stream, so that
streams do not all need their next window at the same step.

One count and one place are kept per chunk, 8 bytes together: 2·10⁹ chunks take 16 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bathyscope.errors import ConfigError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Whole chunks that are shuffled together."""

    stream: int
    index: int
    chunks: Ints
    """Chunk numbers, in the order in which they are read."""


@dataclass(frozen=True)
class Share:
    """The rows that one stream gives to one batch: a range inside one window."""

    window: Window
    start: int
    stop: int


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch.

    `sizes` [chunks] counts the rows of each chunk that pass the filter.
    """

    sizes: npt.NDArray[np.integer[Any]]
    seed: int
    epoch: int
    batch_rows: int
    num_streams: int
    window_chunks: int

    def __post_init__(self) -> None:
        if self.batch_rows % self.num_streams:
            raise ConfigError(
                f"A batch of {self.batch_rows} rows does not divide over {self.num_streams} "
                "streams. Choose train.batch_rows as a multiple of store.streams."
            )

    @cached_property
    def num_steps(self) -> int:
        """Whole batches in the epoch: the shortest stream decides, the rest is left out."""
        share = self.batch_rows // self.num_streams
        return min(int(edges[-1]) for edges in self._edges) // share

    def shares(self, step: int, *, rank: int = 0, world: int = 1) -> list[Share]:
        """What each stream of a rank gives to a step, in stream order.

        Rank r of w owns streams r·S/w to (r + 1)·S/w, so that the parts of all ranks, one after
        the other, are the batch of a single one. `check_ranks` says whether they divide.
        """
        assert self.num_streams % world == 0, (self.num_streams, world)
        assert 0 <= rank < world, (rank, world)
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} of an epoch of {self.num_steps} steps")
        per_stream = self.batch_rows // self.num_streams
        shares: list[Share] = []
        per_rank = self.num_streams // world
        for stream in range(rank * per_rank, (rank + 1) * per_rank):
            shares += self._cut(stream, step * per_stream, (step + 1) * per_stream)
        return shares

    def permutation(self, window: Window) -> Ints:
        """The order of the rows of a window."""
        generator = np.random.default_rng([self.seed, self.epoch, 1, window.stream, window.index])
        return generator.permutation(int(self.sizes[window.chunks].sum(dtype=np.int64)))

    @cached_property
    def _streams(self) -> list[Any]:
        count = len(self.sizes)
        chunks = np.arange(count, dtype=np.uint32 if count < 2**32 else np.int64)
        np.random.default_rng([self.seed, self.epoch, 0]).shuffle(chunks)
        return [chunks[s :: self.num_streams] for s in range(self.num_streams)]

    @cached_property
    def _edges(self) -> list[Ints]:
        """Per stream, the row at which each window begins, and the end."""
        edges = []
        for stream, chunks in enumerate(self._streams):
            cuts = self._cuts(stream, len(chunks))
            rows = np.zeros(len(cuts), dtype=np.int64)
            if len(chunks):
                np.add.reduceat(self.sizes[chunks], cuts[:-1], dtype=np.int64, out=rows[1:])
            edges.append(np.cumsum(rows))
        return edges

    def _cuts(self, stream: int, count: int) -> Ints:
        """The place in a stream at which each window begins, and the end."""
        later = range(self._first_window(stream), count, self.window_chunks)
        return np.array([0, *later, count] if count else [0], dtype=np.int64)

    def _first_window(self, stream: int) -> int:
        return self.window_chunks - stream * self.window_chunks // self.num_streams

    def _cut(self, stream: int, start: int, stop: int) -> list[Share]:
        edges = self._edges[stream]
        first = int(np.searchsorted(edges, start, side="right")) - 1
        shares = []
        for index in range(first, len(edges) - 1):
            begin, end = int(edges[index]), int(edges[index + 1])
            if begin >= stop:
                break
            low, high = max(start, begin) - begin, min(stop, end) - begin
            if high > low:
                shares.append(Share(self._window(stream, index), low, high))
        return shares

    def _window(self, stream: int, index: int) -> Window:
        stop = self._first_window(stream) + index * self.window_chunks
        start = stop - self.window_chunks if index else 0
        return Window(stream, index, self._streams[stream][start:stop].astype(np.int64))


def check_ranks(num_streams: int, world: int) -> None:
    """Raise `ConfigError` when streams do not divide over ranks."""
    if num_streams % world:
        raise ConfigError(
            f"{num_streams} streams do not divide over {world} ranks. Set store.streams to a "
            "multiple of the ranks; with few chunks there are fewer streams than that: harvest "
            "more, or choose a smaller store.chunk_bytes."
        )


def choose_streams(num_chunks: int, *, wanted: int, batch_rows: int, min_chunks: int = 16) -> int:
    """The number of streams: the wanted one, halved until each holds enough chunks.

    With few chunks per stream, one chunk more or less would leave a large share of an epoch out.
    """
    streams = max(wanted, 1)
    while streams > 1 and (num_chunks // streams < min_chunks or batch_rows % streams):
        streams //= 2
    return streams
