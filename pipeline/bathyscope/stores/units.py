"""Writes one unit of a segment: whole shards first; the caller stores the receipt last."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy.typing as npt
from torch import Tensor

from bathyscope.stores.codecs import is_per_row, quantise
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.rows import scales_name, to_disk
from bathyscope.stores.shards import (
    ArraySpec,
    Assembled,
    assemble,
    create_array,
    place,
    record_of,
)
from bathyscope.values import ShardRecord, Unit

_IN_FLIGHT = 2


def create_segment(objects: Objects, segment: Segment) -> None:
    """Write the metadata of every array of a segment. Harmless when it is there."""
    for spec in segment.arrays:
        create_array(objects, segment.name, spec, capacity=segment.capacity(spec.name))


def shards_of(segment: Segment, unit: Unit, name: str) -> range:
    """Shard numbers of a unit, a pure function of its index."""
    per_unit = segment.unit_shards(name)
    return range(unit.index * per_unit, (unit.index + 1) * per_unit)


def write_unit(
    objects: Objects,
    segment: Segment,
    *,
    unit: Unit,
    rows: Mapping[str, npt.NDArray[Any]],
    check: Callable[[], None],
    fsync: bool = True,
    keep: bool = True,
) -> tuple[ShardRecord, ...]:
    """Write the rows of every array of a unit; `check` confirms the lease before each shard.

    The last unit of a split may have fewer rows: its shards are padded with zeros, and its
    receipt's `valid` says where they begin. With `fsync`, on a local disk, all bytes and names are
    on the disk when this returns, so that no receipt outlives its shards in a power cut.

    While a shard is written in the background, the next one is assembled and hashed. Without
    `keep` nothing is written: the records say what would have been.
    """
    if not keep:
        return tuple(
            record_of(spec.shard_key(segment.name, shard), assemble(part, spec))
            for spec, shard, part in _parts(segment, unit, rows)
        )
    with ThreadPoolExecutor(max_workers=1) as writer:
        placed: deque[Future[ShardRecord]] = deque()
        records: list[ShardRecord] = []
        for spec, shard, part in _parts(segment, unit, rows):
            key = spec.shard_key(segment.name, shard)
            before = placed[-1] if placed else None
            shard_bytes = assemble(part, spec)
            placed.append(
                writer.submit(_place, objects, key, shard_bytes, before, check=check, fsync=fsync)
            )
            if len(placed) == _IN_FLIGHT:
                records.append(placed.popleft().result())
        records += [one.result() for one in placed]
    return tuple(records)


def _place(
    objects: Objects,
    key: str,
    shard: Assembled,
    before: Future[ShardRecord] | None,
    *,
    check: Callable[[], None],
    fsync: bool,
) -> ShardRecord:
    if before is not None:
        # Nothing more is written after a failure. One thread: the one before is over.
        before.result()
    check()
    place(objects, key, shard, check=check, fsync=fsync)
    return record_of(key, shard)


def _parts(
    segment: Segment, unit: Unit, rows: Mapping[str, npt.NDArray[Any]]
) -> Iterator[tuple[ArraySpec, int, npt.NDArray[Any]]]:
    """Array, shard number and rows of every shard of a unit, in order."""
    for spec in segment.arrays:
        data = rows[spec.name]
        most = segment.unit_rows(spec.name)
        assert len(data) <= most, (spec.name, len(data), most)
        for i, shard in enumerate(shards_of(segment, unit, spec.name)):
            part = data[i * spec.shard_rows : (i + 1) * spec.shard_rows]
            if spec.ragged and len(part) == 0:
                break
            yield spec, shard, part.reshape(len(part), *spec.row_shape)


def shard_keys(segment: Segment, unit: Unit) -> list[str]:
    """Keys of all shards of a unit, array by array."""
    return [
        spec.shard_key(segment.name, shard)
        for spec in segment.arrays
        for shard in shards_of(segment, unit, spec.name)
    ]


def named_shards(
    segment: Segment, unit: Unit, keys: Sequence[str]
) -> list[tuple[ArraySpec, int]] | None:
    """Array and shard number of each key, or None where they cannot be the shards of the unit.

    A unit has all shards of each array, of a ragged one the first, as many as it needs.
    """
    found: list[tuple[ArraySpec, int]] = []
    for spec in segment.arrays:
        for number in shards_of(segment, unit, spec.name):
            place = len(found)
            if place < len(keys) and keys[place] == spec.shard_key(segment.name, number):
                found.append((spec, number))
            elif spec.ragged:
                break
            else:
                return None
    return found if len(found) == len(keys) else None


def encoded(segment: Segment, name: str, rows: Tensor) -> dict[str, npt.NDArray[Any]]:
    """What is written for rows [n, d] of an array: its bits, or its codes and scales."""
    spec = segment.array(name)
    if not is_per_row(spec.codec):
        return {name: to_disk(rows)}
    codes, scales = quantise(rows, spec.codec)
    return {name: codes, scales_name(name): scales}
