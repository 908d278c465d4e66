"""Shuffled batches of activations, read from segments: `batch(seed, epoch, step)`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import StoreError
from bathyscope.stores.order import EpochOrder, Share, Window, check_ranks, choose_streams
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
        valid = reader.receipts.valid(unit.index)
        for start in range(0, valid, chunk_rows):
            stop = min(start + chunk_rows, valid)
            chunks.append(Chunk(reader, unit, start, stop, keep[unit.index][start:stop]))
    return chunks


class _Rows(NamedTuple):
    """The rows of a window as they were read, and the order in which they are given."""

    rows: Tensor
    permutation: Tensor


class ShuffledBatches:
    """Batches whose content depends on (seed, epoch, step) only.

    `rank` of `world` gets its part of each batch: the parts of all ranks, one after the other, are
    the batch of a single one. Windows are kept from one batch to the next: memory is
    `streams * window_chunks / world` chunks, twice while one window gives way to the next.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        *,
        name: str,
        batch_rows: int,
        streams: int = 128,
        window_chunks: int = 16,
        rank: int = 0,
        world: int = 1,
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
        check_ranks(self.num_streams, world)
        self.window_chunks = window_chunks
        self._part = {"rank": rank, "world": world}
        self._windows: dict[_WindowKey, _Rows] = {}
        self._orders: OrderedDict[tuple[int, int], EpochOrder] = OrderedDict()

    def num_steps(self, seed: int, epoch: int) -> int:
        """Whole batches in that epoch."""
        return self._order(seed, epoch).num_steps

    def batch(self, seed: int, epoch: int, step: int) -> Tensor:
        """Rows [batch_rows / world, d] in their logical dtype."""
        order = self._order(seed, epoch)
        shares = order.shares(step, **self._part)
        used: dict[_WindowKey, _Rows] = {}
        for share in shares:
            key = (seed, epoch, share.window.stream, share.window.index)
            used[key] = self._window(order, share.window)
        self._windows = used
        return self._gather(shares, list(used.values()))

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
        rows = self._read([self._chunks[c] for c in window.chunks])
        return _Rows(rows, torch.from_numpy(order.permutation(window)))

    def _read(self, chunks: list[Chunk]) -> Tensor:
        """The rows of chunks that pass the filter, read straight into their place."""
        spec = chunks[0].reader.segment.array(self._name)
        kept = sum(int(c.keep.sum()) for c in chunks)
        rows = torch.empty(kept, *spec.row_shape, dtype=getattr(torch, spec.logical_dtype))
        done = 0
        for chunk in chunks:
            count = int(chunk.keep.sum())
            part = rows[done : done + count]
            if count == chunk.stop - chunk.start:
                chunk.reader.read_into(self._name, chunk.unit, chunk.start, part)
            else:
                found = chunk.reader.read_tensor(
                    self._name, chunk.unit, start=chunk.start, stop=chunk.stop
                )
                torch.index_select(found, 0, torch.from_numpy(np.flatnonzero(chunk.keep)), out=part)
            done += count
        return rows


def _num_streams(sizes: npt.NDArray[np.int64], *, wanted: int, batch_rows: int) -> int:
    # A filter may leave a stream too few rows for one share of a batch, and then no epoch would
    # have a step. The chunks with the fewest rows stand for the worst deal, whatever the seed.
    streams = choose_streams(len(sizes), wanted=wanted, batch_rows=batch_rows)
    fewest = np.cumsum(np.sort(sizes))
    while streams > 1 and fewest[len(sizes) // streams - 1] < batch_rows // streams:
        streams = choose_streams(len(sizes), wanted=streams // 2, batch_rows=batch_rows)
    return streams
