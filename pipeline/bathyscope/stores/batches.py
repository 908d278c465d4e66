"""Shuffled batches of activations, read from segments: `batch(seed, epoch, step)`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import StoreError
from bathyscope.stores.order import EpochOrder, Window, choose_streams
from bathyscope.stores.rows import SegmentReader
from bathyscope.values import Unit

_WindowKey = tuple[int, int, int, int]


@dataclass(frozen=True)
class Chunk:
    """One chunk of rows and which of them pass the filter."""

    reader: SegmentReader
    unit: Unit
    start: int
    stop: int
    keep: npt.NDArray[np.bool_]
    """[stop - start]"""


def list_chunks(
    reader: SegmentReader, name: str, *, split: str, keep: dict[int, npt.NDArray[np.bool_]]
) -> list[Chunk]:
    """The chunks of one split of a segment. `keep` maps a unit to its row filter [valid]."""
    chunk_rows = reader.segment.array(name).chunk_rows
    chunks = []
    for unit in reader.units:
        if unit.split != split:
            continue
        valid = reader.receipts[unit.index].valid
        for start in range(0, valid, chunk_rows):
            stop = min(start + chunk_rows, valid)
            chunks.append(Chunk(reader, unit, start, stop, keep[unit.index][start:stop]))
    return chunks


class ShuffledBatches:
    """Batches whose content depends on (seed, epoch, step) only.

    Windows are kept from one batch to the next: memory is `streams * window_chunks` chunks, twice
    while one window gives way to the next.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        *,
        name: str,
        batch_rows: int,
        streams: int = 128,
        window_chunks: int = 16,
    ) -> None:
        self._chunks = list(chunks)
        self._name = name
        self._sizes = np.array([int(c.keep.sum()) for c in self._chunks], dtype=np.int64)
        self.num_rows = int(self._sizes.sum())
        if self.num_rows < batch_rows:
            raise StoreError(
                f"There are {self.num_rows} training rows of {name}; a batch needs {batch_rows}. "
                "Harvest more tokens (data.num_tokens) or choose a smaller train.batch_rows."
            )
        self.batch_rows = batch_rows
        self.num_streams = _num_streams(self._sizes, wanted=streams, batch_rows=batch_rows)
        self.window_chunks = window_chunks
        self._windows: dict[_WindowKey, Tensor] = {}
        self._orders: OrderedDict[tuple[int, int], EpochOrder] = OrderedDict()

    def num_steps(self, seed: int, epoch: int) -> int:
        """Whole batches in that epoch."""
        return self._order(seed, epoch).num_steps

    def batch(self, seed: int, epoch: int, step: int) -> Tensor:
        """Rows [batch_rows, d] in the dtype that was stored."""
        order = self._order(seed, epoch)
        parts, used = [], {}
        for share in order.shares(step):
            key = (seed, epoch, share.window.stream, share.window.index)
            rows = used[key] = self._window(order, share.window)
            parts.append(rows[share.start : share.stop])
        self._windows = used
        return torch.cat(parts)

    def _order(self, seed: int, epoch: int) -> EpochOrder:
        key = (seed, epoch)
        if key not in self._orders:
            self._orders[key] = EpochOrder(
                self._sizes, seed, epoch, self.batch_rows, self.num_streams, self.window_chunks
            )
            if len(self._orders) > 2:
                self._orders.popitem(last=False)
        return self._orders[key]

    def _window(self, order: EpochOrder, window: Window) -> Tensor:
        key = (order.seed, order.epoch, window.stream, window.index)
        if key in self._windows:
            return self._windows[key]
        rows = torch.cat([self._read(self._chunks[c]) for c in window.chunks])
        return rows[torch.from_numpy(order.permutation(window))]

    def _read(self, chunk: Chunk) -> Tensor:
        rows = chunk.reader.read_tensor(self._name, chunk.unit, start=chunk.start, stop=chunk.stop)
        return rows if chunk.keep.all() else rows[torch.from_numpy(chunk.keep)]


def _num_streams(sizes: npt.NDArray[np.int64], *, wanted: int, batch_rows: int) -> int:
    # A filter may leave a stream too few rows for one share of a batch, and then no epoch would
    # have a step. The chunks with the fewest rows stand for the worst deal, whatever the seed.
    streams = choose_streams(len(sizes), wanted=wanted, batch_rows=batch_rows)
    fewest = np.cumsum(np.sort(sizes))
    while streams > 1 and fewest[len(sizes) // streams - 1] < batch_rows // streams:
        streams = choose_streams(len(sizes), wanted=streams // 2, batch_rows=batch_rows)
    return streams
