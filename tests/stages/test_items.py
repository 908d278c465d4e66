"""Items of a corpus in units: no more room than they take, the same rows however cut."""

from __future__ import annotations

import numpy as np
import pytest

from bathyscope.config import StoreConfig
from bathyscope.stages.items import ItemWriter, closed
from bathyscope.stages.layout import Column
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.rows import SegmentReader

COLUMNS = [Column("pixels", (4, 3), "uint8", "uint8"), Column("number", (1,), "uint32", "uint32")]


def item(number: int) -> dict[str, np.ndarray]:
    return {
        "pixels": np.full((4, 3), number, np.uint8), "number": np.array([number], np.uint32),
    }  # fmt: skip


def writer(objects: Objects, name: str, expected_items: int) -> ItemWriter:
    store = StoreConfig(chunk_bytes=64)
    return ItemWriter(
        objects, name, COLUMNS, expected_items=expected_items, store=store, check=lambda: None
    )


@pytest.mark.parametrize("expected", [1, 3, 7, 10, 2**62])
@pytest.mark.parametrize("count", [1, 7])
def test_items_come_back_whatever_was_expected(expected: int, count: int) -> None:
    objects = Objects(f"memory://items-{expected}-{count}")
    made = writer(objects, "seg", expected)
    for number in range(count):
        made.add(item(number))
        assert made.num_taken == number + 1
    reader = SegmentReader(objects, made.close("train", 5))
    assert next(iter(reader.units)).start == 5
    found = np.concatenate([reader.read("number", unit) for unit in reader.units])
    assert found[:, 0].tolist() == list(range(count))
    pixels = np.concatenate([reader.read("pixels", unit) for unit in reader.units])
    assert (pixels == found[:, :, None]).all()


def test_a_corpus_without_a_limit_takes_no_more_room_than_its_items() -> None:
    objects = Objects("memory://items-room")
    made = writer(objects, "seg", 2**62)
    for number in range(5):
        made.add(item(number))
    segment = made.close("train", 0)
    assert segment.plan.items_per_unit == 5
    assert sum(a.shard_bytes * segment.unit_shards(a.name) for a in segment.arrays) < 1000


def test_splits_are_numbered_one_after_the_other() -> None:
    objects = Objects("memory://items-splits")
    writers = {split: writer(objects, split, 2) for split in ("train", "held_out")}
    for number in range(3):
        writers["train"].add(item(number))
    writers["held_out"].add(item(3))
    records, count = closed(writers)
    assert count == 4
    ranges = [Segment.from_dict(record).plan.ranges for record in records]
    assert ranges == [(("train", 0, 3),), (("held_out", 3, 4),)]
