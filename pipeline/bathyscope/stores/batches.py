"""Shuffled batches of activations, read from segments: `batch(seed, epoch, step)`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import StoreError
from bathyscope.stores.aside import Aside
from bathyscope.stores.chunks import Chunks
from bathyscope.stores.order import EpochOrder, Share, Window, check_ranks, choose_streams

_WindowKey = tuple[int, int, int, int]


class _Rows(NamedTuple):
    """The rows of a window as they were read, and the order in which they are given."""

    rows: Tensor
    permutation: Tensor


class ShuffledBatches:
    """Batches whose content depends on (seed, epoch, step) only.

    `rank` of `world` gets its part of each batch: the parts of all ranks, one after the other, are
    the batch of a single one. Windows are kept from one batch to the next: memory is about
    `streams * window_chunks / world` chunks. Where the rows of all chunks take no more than
    `memory_bytes`, they are kept as well, and every chunk is read once. `aside_rows` of the rows,
    a twentieth at most, are in no batch: `aside` gives them.
    """

    def __init__(
        self,
        chunks: Chunks,
        *,
        batch_rows: int,
        streams: int = 128,
        window_chunks: int = 16,
        rank: int = 0,
        world: int = 1,
        memory_bytes: int = 0,
        aside_rows: int = 0,
    ) -> None:
        self.chunks = chunks
        self._aside = Aside(chunks.sizes, aside_rows)
        self._sizes = self._aside.left()
        self.num_rows = int(self._sizes.sum(dtype=np.int64))
        if self.num_rows < batch_rows:
            raise StoreError(
                f"There are {self.num_rows} training rows of {chunks.name}; a batch needs "
                f"{batch_rows}. Harvest more tokens (data.train_tokens) or choose a smaller "
                "train.batch_rows."
            )
        self.batch_rows = batch_rows
        self.num_streams = _num_streams(self._sizes, wanted=streams, batch_rows=batch_rows)
        check_ranks(self.num_streams, world)
        self.window_chunks = window_chunks
        self.row_bytes = chunks.width * chunks.dtype.itemsize
        self.in_memory = self.num_rows * self.row_bytes <= memory_bytes
        self.held_bytes = held_bytes(
            self.num_rows,
            row_bytes=self.row_bytes,
            chunk_rows=int(self._sizes.max()),
            streams=self.num_streams // world,
            window_chunks=window_chunks,
            in_memory=self.in_memory,
        )
        """The most that is kept from one batch to the next."""
        self._kept: dict[int, Tensor] = {}
        self._part = {"rank": rank, "world": world}
        self._windows: dict[_WindowKey, _Rows] = {}
        self._orders: OrderedDict[tuple[int, int], EpochOrder] = OrderedDict()

    def num_steps(self, seed: int, epoch: int) -> int:
        """Whole batches in that epoch."""
        return self._order(seed, epoch).num_steps

    def batch(self, seed: int, epoch: int, step: int) -> Tensor:
        """Rows [batch_rows / world, Σ d] in their logical dtype."""
        order = self._order(seed, epoch)
        shares = order.shares(step, **self._part)
        used: dict[_WindowKey, _Rows] = {}
        for share in shares:
            key = (seed, epoch, share.window.stream, share.window.index)
            used[key] = self._window(order, share.window)
        self._windows = used
        return self._gather(shares, list(used.values()))

    def seen(self, seed: int) -> Iterator[Tensor]:
        """The batches of the first epoch."""
        return (self.batch(seed, 0, step) for step in range(self.num_steps(seed, 0)))

    @property
    def num_aside(self) -> int:
        """Rows that no batch has."""
        return int(self.chunks.sizes.sum(dtype=np.int64)) - self.num_rows

    def aside(self) -> Iterator[Tensor]:
        """The rows that no batch has, the same ones at every rank, in blocks [n, Σ d]."""
        found: list[Tensor] = []
        for number in self._aside.chunks:
            rows = self.chunks.read(np.array([number]))
            found.append(rows[torch.from_numpy(self._aside.rows(number))])
            if sum(map(len, found)) >= self.batch_rows:
                yield torch.cat(found)
                found = []
        if found:
            yield torch.cat(found)

    def origins(self, seed: int, epoch: int, step: int) -> npt.NDArray[np.int64]:
        """Where the rows of that batch come from: part, item and position [rows, 3].

        Reads no rows. `part` counts `chunks.parts`.
        """
        order = self._order(seed, epoch)
        found = []
        for share in order.shares(step, **self._part):
            rows = self.chunks.items_and_positions(share.window.chunks)
            rows = rows[self._trained(share.window.chunks)]
            found.append(rows[order.permutation(share.window)[share.start : share.stop]])
        return np.concatenate(found)

    def _gather(self, shares: list[Share], windows: list[_Rows]) -> Tensor:
        first = windows[0].rows
        out = first.new_empty(sum(s.stop - s.start for s in shares), *first.shape[1:])
        done = 0
        for share, window in zip(shares, windows, strict=True):
            count = share.stop - share.start
            chosen = window.permutation[share.start : share.stop]
            torch.index_select(window.rows, 0, chosen, out=out[done : done + count])
            done += count
        return out

    def _order(self, seed: int, epoch: int) -> EpochOrder:
        key = (seed, epoch)
        if key not in self._orders:
            self._orders[key] = EpochOrder(
                self._sizes, seed, epoch, self.batch_rows, self.num_streams, self.window_chunks
            )
            if len(self._orders) > 2:
                self._orders.popitem(last=False)
        return self._orders[key]

    def _window(self, order: EpochOrder, window: Window) -> _Rows:
        key = (order.seed, order.epoch, window.stream, window.index)
        if key in self._windows:
            return self._windows[key]
        rows = self._read(window.chunks)
        return _Rows(rows, torch.from_numpy(order.permutation(window)))

    def _read(self, numbers: npt.NDArray[np.int64]) -> Tensor:
        if not self.in_memory:
            return self._read_trained(numbers)
        for number in numbers.tolist():
            if number not in self._kept:
                self._kept[number] = self._read_trained(np.array([number]))
        return torch.cat([self._kept[number] for number in numbers.tolist()])

    def _read_trained(self, numbers: npt.NDArray[np.int64]) -> Tensor:
        rows, trained = self.chunks.read(numbers), self._trained(numbers)
        return rows if trained.all() else rows[torch.from_numpy(trained)]

    def _trained(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which rows of these chunks are in batches."""
        return ~np.concatenate([self._aside.rows(number) for number in numbers.tolist()])


def held_bytes(
    num_rows: int,
    *,
    row_bytes: int,
    chunk_rows: int,
    streams: int,
    window_chunks: int,
    in_memory: bool,
) -> int:
    """The most that a reader keeps: a window of each of its streams, and all rows `in_memory`.

    A row of a window has a place of 8 bytes in its permutation.
    """
    rows = min(num_rows, streams * window_chunks * chunk_rows)
    return rows * (row_bytes + 8) + (num_rows * row_bytes if in_memory else 0)


def num_steps(
    sizes: npt.NDArray[np.uint32],
    *,
    seed: int,
    epoch: int,
    batch_rows: int,
    streams: int,
    window_chunks: int,
) -> int:
    """The steps of an epoch of `ShuffledBatches` over chunks of these sizes; 0 for too few rows."""
    if int(sizes.sum(dtype=np.int64)) < batch_rows:
        return 0
    count = _num_streams(sizes, wanted=streams, batch_rows=batch_rows)
    return EpochOrder(sizes, seed, epoch, batch_rows, count, window_chunks).num_steps


def _num_streams(sizes: npt.NDArray[np.uint32], *, wanted: int, batch_rows: int) -> int:
    # A filter may leave a stream too few rows for one share of a batch, and then no epoch would
    # have a step. The chunks with the fewest rows stand for the worst deal, whatever the seed.
    streams = choose_streams(len(sizes), wanted=wanted, batch_rows=batch_rows)
    fewest = np.cumsum(np.sort(sizes), dtype=np.int64)
    while streams > 1 and fewest[len(sizes) // streams - 1] < batch_rows // streams:
        streams = choose_streams(len(sizes), wanted=streams // 2, batch_rows=batch_rows)
    return streams
