"""Outcomes of several processes, joined to the one that a single process would have had."""

from __future__ import annotations

import numpy as np

from bathyscope.stages.stage import Outcome, joined
from bathyscope.stores.manifests import Segment
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.units import shard_keys
from bathyscope.values import TRAIN, Moments, ShardRecord, UnitPlan

ARRAYS = tuple(
    ArraySpec(name, (4,), "uint16", "bfloat16", chunk_rows=2, shard_rows=rows)
    for name, rows in (("late", 4), ("early", 2))
)
SEGMENT = Segment("s", UnitPlan(((TRAIN, 0, 8),), 4), rows_per_unit=4, arrays=ARRAYS)
UNIT = SEGMENT.plan.unit(1)


def records(name: str) -> tuple[ShardRecord, ...]:
    keys = [key for key in shard_keys(SEGMENT, UNIT) if key.startswith(f"{name}/")]
    return tuple(ShardRecord(key, 1, "stored", "rows") for key in keys)


def moments(count: int) -> dict[int, Moments]:
    return {0: Moments(count, np.zeros(4), np.zeros(4))}


def test_shards_and_moments_follow_the_order_of_the_arrays() -> None:
    # The first process holds the first blocks, so the hook point that was asked for last.
    first = Outcome(4, records("early"), {"early": moments(1)}, {"masks": [1]})
    second = Outcome(4, records("late"), {"late": moments(2)}, {"masks": [2]})
    found = joined([first, second], SEGMENT, UNIT)
    assert [record.key for record in found.shards] == shard_keys(SEGMENT, UNIT)
    assert len(found.shards) == 3, "one shard of four rows, two of two"
    assert list(found.moments) == ["late", "early"]
    assert (found.valid, found.figures) == (4, {"masks": [1]})


def test_a_process_without_hook_points_adds_nothing() -> None:
    alone = Outcome(4, (*records("late"), *records("early")), {"late": moments(1)})
    assert joined([Outcome(4), alone], SEGMENT, UNIT).shards == alone.shards
