"""Writes a unit while its rows come in: each shard leaves as soon as it is full.

Rows go straight into buffers of one shard, from a GPU on a stream of its own. Threads take full
buffers, sum and hash their rows, and write them; meanwhile the model goes on. The ring of buffers
bounds the memory, and a model that is faster than the disk waits there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import NonFiniteError
from bathyscope.stores.manifests import Segment
from bathyscope.stores.moments import moments_by_class
from bathyscope.stores.objects import Objects
from bathyscope.stores.ring import Ring
from bathyscope.stores.shards import ArraySpec, assemble, place, record_of
from bathyscope.stores.units import encoded, shard_keys, shards_of
from bathyscope.values import Moments, ShardRecord, Unit

Sums = dict[int, Moments]


class Filled(NamedTuple):
    """What a unit left behind."""

    shards: tuple[ShardRecord, ...]
    moments: dict[str, Sums]
    """Array -> mask class -> sums of the rows as they came, before any codec."""


@dataclass
class _Open:
    """A shard that is being filled."""

    number: int
    """Place among the shards of its array in the unit."""
    buffer: Tensor
    rows: Tensor
    """The buffer as rows [shard_rows, d]."""
    filled: int = 0
    copies: list[torch.cuda.Event] = field(default_factory=list)
    """When the copies into it will be over."""

    def wait(self) -> None:
        """Until no GPU writes into the buffer any more."""
        for copied in self.copies:
            copied.synchronize()


class _Written(NamedTuple):
    name: str
    number: int
    records: list[ShardRecord]
    sums: Sums


class Filling:
    """One unit of a segment of bfloat16 rows. Rows of each array come in their order.

    `masks` [rows of the unit] of each array tell the classes of its moments. `check` confirms the
    lease before each shard, in whatever thread. Without `keep` nothing is written, as in
    `write_unit`. `names` are the arrays that rows come for, all of them by default: others are
    another process's.
    """

    def __init__(
        self,
        objects: Objects,
        segment: Segment,
        unit: Unit,
        *,
        masks: Mapping[str, npt.NDArray[np.uint8]],
        ring: Ring,
        pool: ThreadPoolExecutor,
        check: Callable[[], None],
        fsync: bool = True,
        keep: bool = True,
        names: Collection[str] | None = None,
    ) -> None:
        self._objects = objects
        self._segment = segment
        self._unit = unit
        self._masks = masks
        self._ring = ring
        self._pool = pool
        self._check = check
        self._fsync = fsync
        self._keep = keep
        self._arrays = [
            spec
            for spec in segment.arrays
            # Scales follow from the rows that they belong to.
            if spec.scales_of is None and (names is None or spec.name in names)
        ]
        self._open: dict[str, _Open] = {}
        self._counts: dict[str, int] = {}
        self._futures: list[Future[_Written]] = []
        self._failed = threading.Event()

    def add(self, name: str, rows: Tensor) -> None:
        """Take the next rows [n, d] of an array, of any float dtype and on any device.

        Rows on a GPU are copied while it computes; nothing waits for it. Raises at once what went
        wrong with an earlier shard.
        """
        if self._failed.is_set():
            self._raise()
        spec = self._segment.array(name)
        while len(rows):
            shard = self._open.get(name) or self._begin(spec)
            part = rows[: spec.shard_rows - shard.filled]
            _copy(part, shard)
            rows = rows[len(part) :]
            if shard.filled == spec.shard_rows:
                self._hand_in(spec)

    def finish(self) -> Filled:
        """Write what is left, wait for everything, and say what was written.

        Raises the first error of any shard, and `NonFiniteError` for rows with NaN or infinity.
        """
        for spec in self._arrays:
            if spec.name in self._open:
                self._hand_in(spec)
            for number in range(self._counts.get(spec.name, 0), len(self._shards(spec))):
                # The last unit of a split may leave whole shards without a row.
                self._submit(spec, _Open(number, *_nothing(spec)))
        written = self._results()
        by_key = {r.key: r for one in written for r in one.records}
        shards = tuple(by_key[k] for k in shard_keys(self._segment, self._unit) if k in by_key)
        return Filled(shards, {s.name: _sums(written, s.name) for s in self._arrays})

    def abandon(self) -> None:
        """Write nothing more, and give all buffers back."""
        self._failed.set()
        for shard in self._open.values():
            # Whoever takes the buffer next must not find a late copy in it.
            shard.wait()
            self._ring.give(shard.buffer)
        self._open = {}
        for future in self._futures:
            future.exception()

    def _shards(self, spec: ArraySpec) -> range:
        return shards_of(self._segment, self._unit, spec.name)

    def _begin(self, spec: ArraySpec) -> _Open:
        number = self._counts.get(spec.name, 0)
        assert number < len(self._shards(spec)), f"more rows of {spec.name} than a unit holds"
        width = int(np.prod(spec.row_shape, dtype=np.int64))
        buffer = self._ring.take(spec.shard_rows * width * 2)
        rows = buffer.view(torch.bfloat16).view(spec.shard_rows, width)
        shard = self._open[spec.name] = _Open(number, buffer, rows)
        self._counts[spec.name] = number + 1
        return shard

    def _hand_in(self, spec: ArraySpec) -> None:
        self._submit(spec, self._open.pop(spec.name))

    def _submit(self, spec: ArraySpec, shard: _Open) -> None:
        self._futures.append(self._pool.submit(self._write, spec, shard))

    def _write(self, spec: ArraySpec, shard: _Open) -> _Written:
        try:
            shard.wait()
            if self._failed.is_set():
                return _Written(spec.name, shard.number, [], {})
            rows = shard.rows[: shard.filled]
            first = shard.number * spec.shard_rows
            sums = moments_by_class(rows, self._masks[spec.name][first : first + len(rows)])
            self._check_finite(spec.name, rows, first, sums)
            stored = encoded(self._segment, spec.name, rows)
            records = [self._place(name, shard.number, part) for name, part in stored.items()]
            return _Written(spec.name, shard.number, records, sums)
        except BaseException:
            self._failed.set()
            raise
        finally:
            if len(shard.buffer):
                self._ring.give(shard.buffer)

    def _place(self, name: str, number: int, rows: npt.NDArray[Any]) -> ShardRecord:
        spec = self._segment.array(name)
        key = spec.shard_key(self._segment.name, self._shards(spec)[number])
        shard = assemble(rows.reshape(len(rows), *spec.row_shape), spec)
        if self._keep:
            self._check()
            place(self._objects, key, shard, check=self._check, fsync=self._fsync)
        return record_of(key, shard)

    def _check_finite(
        self, name: str, rows: Tensor, first: int, sums: Mapping[int, Moments]
    ) -> None:
        # Reading the rows once more would take ten times as long as the sums.
        if all(np.isfinite(s.sum_sq).all() and np.isfinite(s.sum).all() for s in sums.values()):
            return
        finite = torch.isfinite(rows).all(1)
        if finite.all():
            return
        bad = torch.nonzero(~finite).flatten()
        item, position = divmod(first + int(bad[0]), self._segment.per_item(name))
        raise NonFiniteError(
            f"Hook point {name} gave {len(bad)} rows with NaN or infinity, the first at item "
            f"{self._unit.start + item}, position {position}. This unit has no receipt. Try "
            "model.dtype=float32, or check the weights of that layer."
        )

    def _results(self) -> list[_Written]:
        failures = [e for f in self._futures if (e := f.exception()) is not None]
        if failures:
            raise failures[0]
        return sorted(f.result() for f in self._futures)

    def _raise(self) -> None:
        self.abandon()
        self._results()


def _copy(part: Tensor, shard: _Open) -> None:
    into = shard.rows[shard.filled : shard.filled + len(part)]
    shard.filled += len(part)
    if not part.is_cuda:
        into.copy_(part)
        return
    side = _side_stream(part.device)
    side.wait_stream(torch.cuda.current_stream(part.device))
    with torch.cuda.stream(side):
        into.copy_(part.to(torch.bfloat16), non_blocking=True)
        shard.copies.append(side.record_event())
    # The caller's tensor must not be used for something else before the copy is over.
    part.record_stream(side)


_SIDE_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _SIDE_STREAMS:
        _SIDE_STREAMS[device] = torch.cuda.Stream(device)
    return _SIDE_STREAMS[device]


def _nothing(spec: ArraySpec) -> tuple[Tensor, Tensor]:
    width = int(np.prod(spec.row_shape, dtype=np.int64))
    return torch.empty(0, dtype=torch.uint8), torch.empty(0, width, dtype=torch.bfloat16)


def _sums(written: list[_Written], name: str) -> Sums:
    """The sums of one array over its shards, added in their order."""

    def add(total: Sums, one: Sums) -> Sums:
        return {
            c: total[c] + one[c] if c in total and c in one else (total | one)[c]
            for c in sorted({*total, *one})
        }

    return reduce(add, (w.sums for w in written if w.name == name), {})
