"""Writes one unit of a segment: whole shards first; the caller stores the receipt last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.shards import create_array, put_shard
from bathyscope.values import ShardRecord, Unit


def create_segment(objects: Objects, segment: Segment) -> None:
    """Write the metadata of every array of a segment. Harmless when it is there."""
    for spec in segment.arrays:
        create_array(objects, segment.name, spec, capacity=segment.capacity)


def shards_of(segment: Segment, unit: Unit, name: str) -> range:
    """Shard numbers of a unit, a pure function of its index."""
    per_unit = segment.rows_per_unit // segment.array(name).shard_rows
    return range(unit.index * per_unit, (unit.index + 1) * per_unit)


def write_unit(
    objects: Objects,
    segment: Segment,
    *,
    unit: Unit,
    rows: Mapping[str, npt.NDArray[Any]],
    check: Callable[[], None],
) -> tuple[ShardRecord, ...]:
    """Write the rows of every array of a unit; `check` confirms the lease before each shard.

    The last unit of a split may have fewer rows: its shards are padded with zeros, and its
    receipt's `valid` says where they begin.
    """
    records = []
    for spec in segment.arrays:
        data = rows[spec.name]
        assert len(data) <= segment.rows_per_unit, (spec.name, len(data), segment.rows_per_unit)
        for i, shard in enumerate(shards_of(segment, unit, spec.name)):
            part = data[i * spec.shard_rows : (i + 1) * spec.shard_rows]
            if len(part) == 0:
                part = np.zeros((0, *spec.row_shape), dtype=spec.dtype)
            check()
            records.append(put_shard(objects, spec, segment=segment.name, shard=shard, rows=part))
    return tuple(records)
