"""Batches of rows that are still being harvested, from a store that holds a few units at a time.

The training units are gone through once, in windows of consecutive units. A window waits until all
of its units are stored, its rows are shuffled together, and it is given back when a checkpoint lies
behind it. To the training loop a window is an epoch: what a batch holds follows from its numbers,
so a training goes on as from a store that keeps everything.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.errors import ConfigError, StoreError
from bathyscope.runs.activations import Rows
from bathyscope.stages.masks import kept
from bathyscope.stores.aside import Aside
from bathyscope.stores.batches import ShuffledBatches, held_bytes, num_steps
from bathyscope.stores.manifests import Segment
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.streaming import Streaming, most_unit_bytes
from bathyscope.values import HELD_OUT, TRAIN

_LOOK_S = 0.2
_HEARD_S = 60.0


@dataclass(frozen=True)
class Windows:
    """The training units of a segment, so many at a time."""

    units: range
    each: int

    def __len__(self) -> int:
        return -(-len(self.units) // self.each)

    def __getitem__(self, number: int) -> range:
        """The units of a window; the last one may have fewer."""
        first = self.units.start + number * self.each
        return range(first, min(first + self.each, self.units.stop))


def windows_of(config: Config, segment: Segment, unit_bytes: int) -> Windows:
    """The windows of a stream. Raises `ConfigError` where `store.limit_bytes` does not hold one."""
    train, held_out = (segment.plan.indices(split) for split in (TRAIN, HELD_OUT))
    limit, wanted = config.store.limit_bytes, config.store.stream_units
    room = limit // unit_bytes - len(held_out)
    each = min(wanted or max(room // 2, 1), len(train))
    if room < each:
        raise ConfigError(
            f"store.limit_bytes is {limit:,}. A window of {each} units and the {len(held_out)} "
            f"held-out ones, which stay, take {(each + len(held_out)) * unit_bytes:,}. Allow that "
            "much, or choose smaller units (store.unit_tokens) or fewer of them in "
            "store.stream_units."
        )
    return Windows(train, each)


class StreamedBatches:
    """The batches of a stream: `batch(seed, window, step)`.

    `rows` are hook points side by side. Rank 0 of the processes that train together says what is
    needed no more, as `consumer`. `waits` is called while rows are waited for, and may raise.
    """

    in_memory = False

    def __init__(
        self,
        config: Config,
        rows: Sequence[Rows],
        *,
        consumer: str,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.batch_rows = config.train.batch_rows
        self._rows = list(rows)
        self._settings = {
            "batch_rows": self.batch_rows,
            "streams": config.store.streams,
            "window_chunks": config.store.window_chunks,
        }
        self._memory_bytes = config.store.memory_bytes
        self._part = {"rank": rank, "world": world}
        segment, objects = rows[0].segment, rows[0].objects
        self._streaming = Streaming(objects, segment)
        self._receipts = Receipts(objects, segment.name)
        self.windows = windows_of(config, segment, most_unit_bytes(segment))
        self._consumer = consumer if rank == 0 else None
        self._heard_at = time.monotonic()
        self._open: tuple[int, ShuffledBatches] | None = None
        self._passed_to = self.windows.units.start
        self._ends_of: dict[int, list[int]] = {}
        self._sizes = [self._sizes_of(number) for number in range(len(self.windows))]
        self._set_aside(config.train.calibration_rows)
        self.num_rows = sum(int(sizes.sum(dtype=np.int64)) for sizes in self._sizes)
        """Of all windows, also those that are gone or not there yet."""
        self.row_bytes = (
            sum(r.width for r in rows)
            * getattr(torch, segment.array(rows[0].name).logical_dtype).itemsize
        )
        self.held_bytes = max(map(self._held, self._sizes))
        """The most that is kept from one batch to the next."""
        self.waits: Callable[[str], None] = lambda text: None
        if self.num_rows < self.batch_rows:
            raise StoreError(
                f"The stream has {self.num_rows} training rows; a batch needs {self.batch_rows}. "
                "Choose more data.train_tokens or a smaller train.batch_rows."
            )

    def num_steps(self, seed: int, window: int) -> int:
        """Whole batches in a window."""
        return num_steps(self._sizes[window], seed=seed, epoch=window, **self._settings)

    def batch(self, seed: int, window: int, step: int) -> Tensor:
        """Rows [batch_rows / world, Σ d]; waits until the units of the window are stored.

        Raises `StoreError` where some of them are deleted already.
        """
        if self._open is None or self._open[0] != window:
            self._open = None
            self._open = window, self._opened(window)
        return self._open[1].batch(seed, window, step)

    @property
    def num_aside(self) -> int:
        """Rows that no batch has."""
        return self._num_aside

    def aside(self) -> Iterator[Tensor]:
        """The rows that no batch has [n, Σ d], of the last window, which is still there."""
        return self._opened(self._last).aside()

    def join(self) -> None:
        """Hold every unit that is there until it is passed."""
        if self._consumer is not None:
            self._streaming.register(self._consumer)

    def seen(self, seed: int) -> Iterator[Tensor]:
        """The batches of the last window that has any: those before it may be gone."""
        last = self._last
        return (self.batch(seed, last, step) for step in range(self.num_steps(seed, last)))

    def ends(self, seed: int) -> frozenset[int]:
        """After how many steps each window ends."""
        return frozenset(self._ends(seed))

    def passed(self, seed: int, done: int) -> None:
        """Give back the units of all windows that so many steps have gone through."""
        if self._consumer is not None:
            window = min(bisect_right(self._ends(seed), done), len(self.windows) - 1)
            units = range(self._passed_to, self.windows[window].start)
            self._streaming.passed(self._consumer, units)
            self._streaming.retire()
            self._passed_to = max(self._passed_to, units.stop)
            self._heard_at = time.monotonic()

    def alive(self) -> None:
        """Be heard of, now and then."""
        if self._consumer is not None and time.monotonic() - self._heard_at > _HEARD_S:
            self._streaming.passed(self._consumer)
            self._heard_at = time.monotonic()

    def wait(self, window: int) -> None:
        """Return when the units of a window are done, whether they are still there or not."""
        for unit in self.windows[window]:
            while self._receipts.get(unit) is None:
                self.alive()
                self.waits(f"waits for unit {unit} of the harvest")
                time.sleep(_LOOK_S)

    def _check(self, window: int) -> None:
        gone = set(self._streaming.retired().tolist()) & set(self.windows[window])
        if gone:
            raise StoreError(
                f"Unit {min(gone)} of {self._receipts.objects.location} was read and deleted, and "
                "this training has not seen it. A stream is read once, by all trainings at the "
                "same time: harvest again with another url, or without store.limit_bytes."
            )

    def _ends(self, seed: int) -> list[int]:
        if seed not in self._ends_of:
            sizes = (self.num_steps(seed, window) for window in range(len(self.windows)))
            self._ends_of[seed] = list(accumulate(sizes))
        return self._ends_of[seed]

    def _opened(self, window: int) -> ShuffledBatches:
        self._check(window)
        self.wait(window)
        first, *others = (rows.only(self.windows[window]) for rows in self._rows)
        return first.batches(
            TRAIN, kept, beside=others, memory_bytes=self._memory_bytes,
            aside_rows=self._aside_rows if window == self._last else 0, **self._settings,
            **self._part,
        )  # fmt: skip

    def _set_aside(self, wanted: int) -> None:
        """Leave rows of the last window that has a batch to what is measured at the end."""
        left = [Aside(sizes, wanted).left().sum() for sizes in self._sizes]
        enough = [w for w, rows in enumerate(left) if rows >= self.batch_rows]
        self._last, self._aside_rows = max(enough, default=0), wanted
        before = self._sizes[self._last]
        self._sizes[self._last] = Aside(before, wanted).left()
        self._num_aside = int(before.sum()) - int(self._sizes[self._last].sum())

    def _held(self, sizes: npt.NDArray[np.uint32]) -> int:
        rows = int(sizes.sum(dtype=np.int64))
        return held_bytes(
            rows,
            row_bytes=self.row_bytes,
            chunk_rows=int(sizes.max(initial=0)),
            streams=max(self._settings["streams"] // self._part["world"], 1),
            window_chunks=self._settings["window_chunks"],
            in_memory=rows * self.row_bytes <= self._memory_bytes,
        )

    def _sizes_of(self, window: int) -> npt.NDArray[np.uint32]:
        """Rows of each chunk that count, from the corpus alone."""
        first = self._rows[0]
        segment = first.segment
        chunk_rows = max(segment.array(rows.name).chunk_rows for rows in self._rows)
        found = [np.empty(0, dtype=np.uint32)]
        for index in self.windows[window]:
            keep = kept(first.masks(segment.plan.unit(index)))
            starts = np.arange(0, len(keep), chunk_rows)
            found.append(np.add.reduceat(keep, starts, dtype=np.uint32))
        return np.concatenate(found)


def give_back(rows: Rows, consumer: str) -> None:
    """Need no unit of a stream any more; those that nobody needs are deleted."""
    segment = rows.segment
    streaming = Streaming(rows.objects, segment)
    streaming.register(consumer)
    streaming.passed(consumer, segment.plan.indices(TRAIN))
    streaming.leave(consumer)
    streaming.retire()
