import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from bathyscope.errors import LeaseLost, NonFiniteError, StoreError
from bathyscope.stores.filling import Filling
from bathyscope.stores.manifests import Segment
from bathyscope.stores.moments import moments_by_class
from bathyscope.stores.ring import Ring
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.units import create_segment, encoded, write_unit
from bathyscope.values import UnitPlan

CODECS = {"none": "uint16", "zstd_bitshuffle": "uint16", "int8": "int8", "fp8": "uint8"}


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as made:
        yield made


def segment_of(codec="none"):
    """Two hook points; a unit has 3 items of 4 rows in 3 shards of `a` and 2 of `b`."""
    arrays = []
    for name, width, shard_rows in (("a", 3, 4), ("b", 2, 6)):
        arrays.append(ArraySpec(name, (width,), CODECS[codec], "bfloat16", 2, shard_rows, codec))
        if codec in ("int8", "fp8"):
            scales = f"{name}.scale"
            arrays.append(
                ArraySpec(scales, (), "float32", "float32", 2, shard_rows, scales_of=name)
            )
    plan = UnitPlan((("train", 0, 7),), 3)
    return Segment("seg", plan, rows_per_item=4, arrays=tuple(arrays), rows_per_unit=12)


def rows_of(count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(count)
    return {
        "a": torch.randn(count, 3, generator=generator).to(dtype),
        "b": torch.randn(count, 2, generator=generator).to(dtype),
    }


def filling(objects, pool, *, segment=None, unit=0, ring=None, masks=None, **settings):
    segment = segment or segment_of()
    of_plan = segment.plan.units()[unit]
    count = of_plan.num_items * segment.rows_per_item
    return Filling(
        objects,
        segment,
        of_plan,
        masks=dict.fromkeys("ab", np.zeros(count, np.uint8) if masks is None else masks),
        ring=ring or Ring(10_000),
        pool=pool,
        check=settings.pop("check", lambda: None),
        **settings,
    )


def fill(one, rows):
    for name, x in rows.items():
        one.add(name, x)
    return one.finish()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("piece", [1, 3, 5, 12])
@pytest.mark.parametrize("unit", [0, 2])
def test_pieces_of_any_length_leave_the_shards_of_a_whole_unit(disk, pool, codec, piece, unit):
    segment = segment_of(codec)
    of_plan = segment.plan.units()[unit]
    count = of_plan.num_items * 4
    rows = rows_of(count)
    create_segment(disk, segment)
    whole = write_unit(
        disk.at("whole"),
        segment,
        unit=of_plan,
        rows={
            array: data
            for name, x in rows.items()
            for array, data in encoded(segment, name, x.bfloat16()).items()
        },
        check=lambda: None,
    )
    masks = (np.arange(count) % 4 == 0).astype(np.uint8)

    unit_filling = filling(disk, pool, segment=segment, unit=unit, masks=masks)
    for start in range(0, count, piece):
        for name, x in rows.items():
            unit_filling.add(name, x[start : start + piece])
    filled = unit_filling.finish()

    assert filled.shards == whole
    for record in whole:
        assert disk.get(record.key) == disk.at("whole").get(record.key)
    for name, x in rows.items():
        wanted = moments_by_class(x.bfloat16(), masks)
        assert filled.moments[name].keys() == wanted.keys()
        for pattern, sums in wanted.items():
            found = filled.moments[name][pattern]
            assert found.n == sums.n
            np.testing.assert_allclose(found.sum, sums.sum, rtol=1e-6)
            np.testing.assert_allclose(found.sum_sq, sums.sum_sq, rtol=1e-6)


def test_a_shard_is_written_before_the_unit_is_over(disk, pool):
    create_segment(disk, segment_of())
    one = filling(disk, pool)
    rows = rows_of(12)

    one.add("a", rows["a"][:9])
    for future in one._futures:
        future.result()

    assert sorted(k for k, _ in disk.walk("a") if "/c." in k) == ["a/seg/c.0.0", "a/seg/c.1.0"]
    one.abandon()


def test_a_ring_with_room_for_one_shard_of_each_array_is_enough(disk, pool):
    create_segment(disk, segment_of())
    ring = Ring(4 * 3 * 2 + 6 * 2 * 2)
    one = filling(disk, pool, ring=ring)
    rows = rows_of(12)
    for start in range(12):
        for name, x in rows.items():
            one.add(name, x[start : start + 1])

    assert len(one.finish().shards) == 5
    assert ring.made_bytes <= ring.max_bytes


def test_only_compared_nothing_is_written_and_no_lease_is_asked_for(disk, pool):
    create_segment(disk, segment_of())

    def check():
        raise AssertionError("no lease is needed")

    results = []
    for settings in ({"keep": False, "check": check}, {}):
        one = filling(disk, pool, **settings)
        for name, x in rows_of(12).items():
            one.add(name, x)
        results.append(one.finish().shards)
        there = [k for k, _ in disk.walk() if "/c." in k]
        assert len(there) == (0 if settings else 5)
    assert results[0] == results[1]


def test_a_lost_lease_stops_the_unit_and_frees_the_ring(disk, pool):
    create_segment(disk, segment_of())
    asked = threading.Semaphore(2)

    def check():
        if not asked.acquire(blocking=False):
            raise LeaseLost("taken")

    ring = Ring(4 * 3 * 2 * 2 + 6 * 2 * 2)
    one = filling(disk, pool, check=check, ring=ring)
    with pytest.raises(LeaseLost, match="taken"):
        fill(one, rows_of(12))
    one.abandon()

    assert len([k for k, _ in disk.walk() if "/c." in k]) == 2
    with pytest.raises(LeaseLost):
        one.add("a", torch.zeros(1, 3))
    assert len(ring.take(ring.max_bytes)) == ring.max_bytes, "all buffers came back"


class LateCopy:
    """Stands for the event of a copy from a GPU, which is not over yet."""

    def __init__(self, ring):
        self.ring = ring
        self.free_when_waited_for = None

    def synchronize(self):
        self.free_when_waited_for = len(self.ring._free)


def test_no_buffer_goes_back_while_a_copy_into_it_is_under_way(disk, pool):
    create_segment(disk, segment_of())
    ring = Ring(10_000)
    one = filling(disk, pool, ring=ring)
    rows = rows_of(12)
    one.add("a", rows["a"][:2])
    one.add("b", rows["b"][:2])
    copies = {name: LateCopy(ring) for name in "ab"}
    for name, copy in copies.items():
        one._open[name].copies.append(copy)
    one._failed.set()
    # `b` is handed in after the failure, `a` is still open when the unit is abandoned.
    one._hand_in(one._segment.array("b"))
    one._futures[0].result()
    assert copies["b"].free_when_waited_for == 0
    one.abandon()
    assert copies["a"].free_when_waited_for == 1
    assert len(ring._free) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_finite_are_named(disk, pool, bad):
    create_segment(disk, segment_of())
    one = filling(disk, pool, unit=1)
    rows = rows_of(12)
    rows["b"][9, 1] = bad
    with pytest.raises(NonFiniteError, match=r"point b gave 1 rows .* at item 5, position 1\."):
        fill(one, rows)


def test_rows_whose_squares_overflow_are_finite_all_the_same(disk, pool):
    create_segment(disk, segment_of())
    one = filling(disk, pool)
    rows = rows_of(12)
    rows["a"][3] = 1e30
    for name, x in rows.items():
        one.add(name, x)

    assert len(one.finish().shards) == 5


def test_a_full_disk_is_told_at_the_next_rows(disk, pool, monkeypatch):
    create_segment(disk, segment_of())
    one = filling(disk, pool)

    def full(*args, **settings):
        raise StoreError("no space left")

    monkeypatch.setattr("bathyscope.stores.filling.place", full)
    one.add("a", rows_of(12)["a"][:4])
    with pytest.raises(StoreError, match="no space left"):
        one._futures[0].result()
    with pytest.raises(StoreError, match="no space left"):
        one.add("b", rows_of(12)["b"])


def test_more_rows_than_a_unit_holds_are_a_mistake(disk, pool):
    create_segment(disk, segment_of())
    one = filling(disk, pool)
    with pytest.raises(AssertionError, match="more rows of a than a unit holds"):
        one.add("a", torch.zeros(13, 3))
    one.abandon()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_of_a_gpu_are_the_same_as_from_the_cpu(disk, pool):
    create_segment(disk, segment_of())
    rows = rows_of(12)
    results = []
    for device in ("cpu", "cuda"):
        one = filling(disk.at(device), pool, ring=Ring(10_000, pinned=device == "cuda"))
        for name, x in rows.items():
            one.add(name, x.to(device))
        results.append(one.finish().shards)
    assert results[0] == results[1]
