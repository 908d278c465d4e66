import dataclasses

import numpy as np
import pytest

from bathyscope.stores.compaction import compact
from bathyscope.stores.manifests import Segment
from bathyscope.stores.moments import moments
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipt_json import encode
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.rows import as_logical
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.units import create_segment, write_unit
from bathyscope.stores.verify import check_segment
from bathyscope.values import Receipt, UnitPlan


@pytest.fixture
def stored(objects, small_segment, small_rows, write_segment):
    """A store of the small segment, complete."""
    write_segment(objects, small_segment, small_rows)
    return objects


def check(objects, segment, **settings):
    return check_segment(objects, segment, **{"complete": True, **settings})


def said(checked):
    return [fault.what for fault in checked.faults]


def test_a_sound_segment_has_no_fault(stored, small_segment):
    read = []
    found = check(stored, small_segment, tell=read.append)

    assert said(found) == []
    assert (found.units, found.shards, found.read_shards, found.leftovers) == (3, 9, 9, 0)
    sizes = [s.size_bytes for u in range(3) for s in Receipts(stored, "seg").get(u).shards]
    assert sorted(read) == sorted(sizes)
    assert found.read_bytes == sum(sizes)


def test_a_segment_that_is_not_complete_may_lack_units(objects, small_segment, small_rows):
    create_segment(objects, small_segment)

    assert said(check(objects, small_segment, complete=False)) == []
    assert said(check(objects, small_segment)) == [f"unit {u} has no receipt" for u in range(3)]


def damage_flip(objects):
    data = bytearray(objects.get("wide/seg/c.3.0"))
    data[5] ^= 1
    objects.put("wide/seg/c.3.0", bytes(data))


def damage_cut(objects):
    objects.put("wide/seg/c.3.0", objects.get("wide/seg/c.3.0")[:-1])


def damage_remove(objects):
    objects.delete("wide/seg/c.3.0")


def damage_rubbish(objects):
    objects.put("receipts/seg/00000/00000001.json", b"{")


def damage_renamed(objects):
    data = objects.get("receipts/seg/00000/00000002.json")
    objects.put("receipts/seg/00000/00000001.json", data)


def damage_foreign_shards(objects):
    receipt = Receipts(objects, "seg").get(1)
    other = dataclasses.replace(receipt, shards=Receipts(objects, "seg").get(2).shards)
    objects.put("receipts/seg/00000/00000001.json", encode(other))


def damage_count(objects):
    receipt = dataclasses.replace(Receipts(objects, "seg").get(1), valid=9)
    objects.put("receipts/seg/00000/00000001.json", encode(receipt))


def damage_sums(objects):
    rows = as_logical(np.zeros((7, 3), dtype=np.uint16), "bfloat16")
    receipt = Receipts(objects, "seg").get(1)
    changed = dataclasses.replace(receipt, moments={"wide": {0: moments(rows)}})
    objects.put("receipts/seg/00000/00000001.json", encode(changed))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (damage_flip, "shard wide/seg/c.3.0 of unit 1 holds other bytes than its receipt says"),
        (damage_cut, "shard wide/seg/c.3.0 of unit 1 has 67 bytes; its receipt says 68"),
        (damage_remove, "shard wide/seg/c.3.0 of unit 1 has no object; its receipt says 68"),
        (damage_rubbish, "00000001.json of "),
        (damage_renamed, "is the receipt of unit 2."),
        (damage_foreign_shards, "the receipt of unit 1 lists other shards than those of the unit"),
        (damage_count, "the receipt of unit 1 counts 9 rows; a unit has 8"),
        (damage_sums, "counts 8 rows, its sums of wide are over 7"),
    ],
)
def test_a_fault_is_named_once_with_the_unit_to_do_again(stored, small_segment, damage, what):
    damage(stored)

    (fault,) = check(stored, small_segment).faults

    assert what in fault.what
    assert (fault.units, fault.packs, fault.segment, fault.redo) == ((1,), (), "seg", True)
    for unit in fault.units:
        Receipts(stored, "seg").void(unit, fault.what)
    (missing,) = check(stored, small_segment).faults
    assert (missing.what, missing.redo, missing.again) == ("unit 1 has no receipt", False, True)


def test_a_missing_receipt_leaves_its_shards_over(stored, small_segment):
    stored.delete("receipts/seg/00000/00000001.json")

    found = check(stored, small_segment)

    assert said(found) == ["unit 1 has no receipt"]
    assert found.leftovers == 3


def test_a_foreign_unit_is_named(stored, small_segment):
    receipt = dataclasses.replace(Receipts(stored, "seg").get(1), unit=7)
    Receipts(stored, "seg").create(receipt)

    (fault,) = check(stored, small_segment).faults

    assert fault.what == "unit 7 has a receipt, but the segment has no such unit"
    assert fault.units == (7,)


@pytest.mark.parametrize("content", [None, b"{", b'{"zarr_format": 3}'])
def test_metadata_that_other_readers_cannot_use_is_named(stored, small_segment, content):
    stored.delete("wide/seg/zarr.json")
    if content is not None:
        stored.put("wide/seg/zarr.json", content)

    (fault,) = check(stored, small_segment).faults

    assert fault.what.startswith("wide/seg/zarr.json ")
    assert (fault.units, fault.again) == ((), False)


def test_metadata_of_another_shape_is_named(stored, small_segment):
    other = dataclasses.replace(small_segment, plan=UnitPlan((("train", 0, 100),), 2))
    stored.delete("wide/seg/zarr.json")
    create_segment(stored, other)

    (fault,) = check(stored, small_segment).faults

    assert "says ((400, 3)" in fault.what
    assert "the manifest says ((24, 3)" in fault.what


def test_a_share_of_none_reads_no_shard_and_still_checks_sizes(stored, small_segment):
    damage_flip(stored)
    stored.put("narrow/seg/c.0", b"x")

    found = check(stored, small_segment, share=0.0)

    assert found.read_shards == 0
    assert len(found.faults) == 1
    assert found.faults[0].units == (0,)


def test_a_share_is_drawn_by_its_seed(disk):
    spec = ArraySpec("x", (), "uint8", "uint8", chunk_rows=1, shard_rows=1)
    segment = Segment("seg", UnitPlan((("train", 0, 200),), 1), arrays=(spec,))
    create_segment(disk, segment)
    for unit in segment.plan.units():
        rows = {"x": np.array([unit.index], dtype=np.uint8)}
        made = write_unit(disk, segment, unit=unit, rows=rows, check=lambda: None, fsync=False)
        disk.put(Receipts(disk, "seg").key(unit.index), encode(Receipt(unit.index, 1, 1, made)))

    counts = [check(disk, segment, share=0.5, seed=seed).read_shards for seed in (1, 1, 2)]

    assert counts[0] == counts[1] != 200
    assert 60 < counts[0] < 140


@pytest.fixture
def packed():
    """A segment of a thousand units of one row, packed."""
    objects = Objects("memory://verify-packed")
    objects.delete_folder("")
    spec = ArraySpec("x", (), "uint8", "uint8", chunk_rows=1, shard_rows=1)
    segment = Segment("seg", UnitPlan((("train", 0, 1000),), 1), arrays=(spec,))
    create_segment(objects, segment)
    receipts = Receipts(objects, "seg")
    for unit in segment.plan.units():
        rows = {"x": np.array([unit.index % 251], dtype=np.uint8)}
        made = write_unit(objects, segment, unit=unit, rows=rows, check=lambda: None)
        objects.put(receipts.key(unit.index), encode(Receipt(unit.index, 1, 1, made)))
    assert compact(receipts, segment.plan) == 1
    return objects, segment


def test_units_of_a_pack_are_checked_like_others(packed):
    objects, segment = packed
    assert said(check(objects, segment)) == []
    objects.put("x/seg/c.77", objects.get("x/seg/c.78"))

    (fault,) = check(objects, segment).faults

    assert fault.units == (77,)
    assert Receipts(objects, "seg").void(77, fault.what)
    assert said(check(objects, segment)) == ["unit 77 has no receipt"]


@pytest.mark.parametrize("which", ["0001.parquet", "totals", "moments"])
def test_a_pack_that_cannot_be_read_is_one_fault(packed, which):
    objects, segment = packed
    folder = "receipts/seg/packs/00000"
    (name,) = [n for n in objects.files(folder) if which in n]
    objects.put(f"{folder}/{name}", b"rubbish")

    (fault,) = check(objects, segment).faults

    assert name in fault.what
    assert (fault.packs, fault.units) == ((0,), ())


def test_a_receipt_beside_its_pack_that_differs_is_named(packed):
    objects, segment = packed
    receipts = Receipts(objects, "seg")
    differs = dataclasses.replace(receipts.get(5), figures={"x": 1})
    objects.put(receipts.key(5), encode(differs))
    objects.put(receipts.key(6), encode(receipts.get(6)))

    found = check(objects, segment)

    assert said(found) == ["unit 5 has a receipt beside its pack that differs"]
    assert found.leftovers == 2
