import itertools
from dataclasses import replace

import numpy as np
import pytest

from bathyscope.errors import IdentityMismatch, StoreError
from bathyscope.runs.work import Work, begin, finish
from bathyscope.stores.leases import Leases
from bathyscope.stores.manifests import COMPLETE, OPEN, Segment, latest
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.rows import SegmentReader
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.units import create_segment, write_unit
from bathyscope.values import Receipt, UnitPlan

_numbers = itertools.count()
RESID = ArraySpec("resid", (2,), "uint16", "bfloat16", chunk_rows=2, shard_rows=4)


@pytest.fixture(params=["disk", "memory"])
def run(request, tmp_path):
    """An empty run, on disk and in memory."""
    if request.param == "disk":
        return Objects(str(tmp_path / "run"))
    return Objects(f"memory://work-{next(_numbers)}")


def work_of(lr=0.001, *, arrays=(RESID,)):
    return Work(
        "harvest",
        "activations.zarr",
        {"stage": "harvest", "seed": 0, "train": {"lr": lr}},
        UnitPlan((("train", 0, 10),), 4),
        arrays=arrays,
        rows_per_unit=4,
        facts={"model": "toy"},
    )


def do(begun, unit, *, value=1):
    work, objects = begun.work, begun.objects
    rows = np.full((unit.num_items, 2), value, dtype=np.uint16)
    shards = write_unit(
        objects,
        work.segment,
        unit=unit,
        rows={a.name: rows for a in work.arrays},
        check=lambda: None,
    )
    receipt = Receipt(unit.index, term=1, valid=unit.num_items, shards=shards)
    Receipts(objects, work.segment.name).create(receipt)


def complete(run, work, *, force=False, value=1):
    begun = begin(run, work, force=force)
    for unit in begun.remaining:
        do(begun, unit, value=value)
    return finish(begun, {"rows": 10})


def keys_of(run):
    return sorted(key for key, _ in run.walk())


def test_work_counts_the_bytes_of_its_arrays():
    # 3 units of one shard each: 4 rows of 4 bytes, 2 chunks of 20 bytes besides, 4 for the index.
    assert work_of().num_bytes == 3 * (16 + 40 + 4)
    assert work_of(arrays=()).num_bytes == 0


def test_segments_are_named_by_the_identity():
    assert work_of().segment.name == work_of().segment.name
    assert work_of().segment.name != work_of(0.002).segment.name


def test_new_work_has_all_its_units_left(run):
    begun = begin(run, work_of(), force=False)

    assert not begun.complete
    assert [u.index for u in begun.remaining] == [0, 1, 2]
    manifest = latest(run.at("activations.zarr"))
    assert (manifest.state, manifest.number) == (OPEN, 1)
    assert manifest.identity == work_of().identity
    assert manifest.segments == (work_of().segment,)
    assert manifest.facts == {"model": "toy"}


def test_interrupted_work_goes_on_with_the_units_that_are_left(run):
    begun = begin(run, work_of(), force=False)
    do(begun, begun.remaining[1])

    again = begin(run, work_of(), force=False)

    assert [u.index for u in again.remaining] == [0, 2]
    assert latest(run.at("activations.zarr")).number == 1, "going on publishes nothing"


def test_finished_work_is_found_complete(run):
    published = complete(run, work_of())

    assert (published.state, published.number) == (COMPLETE, 2)
    assert published.facts == {"model": "toy", "rows": 10}
    begun = begin(run, work_of(), force=False)
    assert begun.complete
    assert begun.remaining == ()
    assert begin(run, work_of(), force=True).complete


def test_unfinished_work_is_not_published(run):
    begun = begin(run, work_of(), force=False)
    do(begun, begun.remaining[0])

    with pytest.raises(StoreError, match=r"2 of 3 units of .* no receipt, the first is 1\."):
        finish(begun, {})
    assert latest(run.at("activations.zarr"), state=COMPLETE) is None


def test_other_work_is_refused_with_the_field_and_changes_nothing(run):
    complete(run, work_of(0.001))
    before = keys_of(run)

    with pytest.raises(IdentityMismatch) as caught:
        begin(run, work_of(0.002), force=False)

    assert "\n  train.lr: 0.001 -> 0.002\n" in str(caught.value)
    assert "pass force=true" in str(caught.value)
    assert f"{run.location}/activations.zarr is already there" in str(caught.value)
    assert keys_of(run) == before


def test_an_identity_with_tuples_is_the_same_after_a_restart(run):
    work = replace(work_of(), identity={"shape": (1, 2), "limit": float("nan")})
    complete(run, work)

    assert begin(run, work, force=False).complete


def test_readers_see_the_old_artifact_until_the_new_one_is_complete(run):
    store = run.at("activations.zarr")
    complete(run, work_of(0.001), value=7)

    begun = begin(run, work_of(0.002), force=True)
    do(begun, begun.remaining[0], value=8)

    seen = latest(store, state=COMPLETE)
    assert seen.identity == work_of(0.001).identity
    reader = SegmentReader(store, seen.segments[0])
    assert [u.index for u in reader.units] == [0, 1, 2]
    assert reader.read("resid", reader.units[0]).tolist() == [[7, 7]] * 4
    assert latest(store).state == OPEN


def test_an_interrupted_replacement_goes_on_without_force(run):
    complete(run, work_of(0.001))
    begun = begin(run, work_of(0.002), force=True)
    do(begun, begun.remaining[0])

    again = begin(run, work_of(0.002), force=False)

    assert [u.index for u in again.remaining] == [1, 2]
    with pytest.raises(IdentityMismatch, match=r"train\.lr: 0\.002 -> 0\.001"):
        begin(run, work_of(0.001), force=False)


def test_a_replacement_may_be_given_up_for_the_old_artifact(run):
    complete(run, work_of(0.001))
    begun = begin(run, work_of(0.002), force=True)
    do(begun, begun.remaining[0])

    back = begin(run, work_of(0.001), force=True)

    assert back.remaining == ()
    assert finish(back, {"rows": 10}).identity == work_of(0.001).identity
    assert not any(work_of(0.002).segment.name in key for key in keys_of(run))


def test_what_was_replaced_is_gone_entirely(run):
    old, new = work_of(0.001).segment.name, work_of(0.002).segment.name
    complete(run, work_of(0.001))
    store = run.at("activations.zarr")
    store.put(f"results.{old}.json", b"{}")
    store.put(f"documents/{old}.parquet", b"x")
    store.put(f"states/{old}/0.npz", b"x")
    store.put("results.json", b"{}")
    leases = Leases(store, old)
    leases.claim(0)

    complete(run, work_of(0.002), force=True)

    assert [k for k in keys_of(run) if old in k] == []
    assert sorted(k for k in keys_of(run) if new in k) == [
        f"activations.zarr/receipts/{new}/00000/{unit:08d}.json" for unit in range(3)
    ] + [f"activations.zarr/resid/{new}/c.{shard}.0" for shard in range(3)] + [
        f"activations.zarr/resid/{new}/zarr.json"
    ]
    assert store.exists("results.json")
    assert store.files("manifests") == [f"{n:08d}.json" for n in range(1, 5)]


def test_an_array_that_is_no_longer_made_leaves_nothing(run):
    other = ArraySpec("mlp_out.3", (2,), "uint16", "bfloat16", chunk_rows=2, shard_rows=4)
    complete(run, work_of(0.001, arrays=(RESID, other)))
    store = run.at("activations.zarr")
    assert store.children() == ["manifests", "mlp_out.3", "receipts", "resid"]

    complete(run, work_of(0.002), force=True)

    assert [k for k in keys_of(run) if "mlp_out" in k] == []
    assert store.children() == ["manifests", "receipts", "resid"]


def test_finishing_drops_leases(run):
    begun = begin(run, work_of(), force=False)
    for unit in begun.remaining:
        Leases(begun.objects, work_of().segment.name).claim(unit.index)
        do(begun, unit)

    finish(begun, {})

    assert list(begun.objects.walk("leases")) == []


def test_finishing_takes_away_what_killed_writers_left(tmp_path):
    run = Objects(str(tmp_path / "run"))
    begun = begin(run, work_of(), force=False)
    for unit in begun.remaining:
        do(begun, unit)
    folder = tmp_path / "run/activations.zarr/resid" / work_of().segment.name
    (folder / "c.0.0#1").write_bytes(b"half a shard")

    finish(begun, {})

    assert sorted(f.name for f in folder.iterdir()) == ["c.0.0", "c.1.0", "c.2.0", "zarr.json"]


def test_a_run_that_is_being_replaced_publishes_nothing(run):
    slow = begin(run, work_of(0.001), force=False)
    for unit in slow.remaining:
        do(slow, unit)
    other = begin(run, work_of(0.002), force=True)
    do(other, other.remaining[0])
    before = keys_of(run)

    with pytest.raises(StoreError, match="Another run has begun to replace"):
        finish(slow, {})

    assert keys_of(run) == before
    assert [u.index for u in begin(run, work_of(0.002), force=False).remaining] == [1, 2]


def test_a_unit_whose_receipt_was_deleted_is_done_again(run):
    complete(run, work_of())
    store = run.at("activations.zarr")
    store.delete(f"resid/{work_of().segment.name}/c.1.0")
    with pytest.raises(StoreError, match=r"units=\[1\]"):
        SegmentReader(store, work_of().segment)

    store.delete(f"receipts/{work_of().segment.name}/00000/00000001.json")
    begun = begin(run, work_of(), force=False)

    assert [u.index for u in begun.remaining] == [1]
    do(begun, begun.remaining[0])
    assert finish(begun, {}).number == 3
    assert begin(run, work_of(), force=False).complete
    assert len(SegmentReader(store, work_of().segment).units) == 3


def test_receipts_without_rows_do_not_reopen_a_complete_artifact(run):
    work = work_of(arrays=())
    complete(run, work)
    run.delete(f"activations.zarr/receipts/{work.segment.name}/00000/00000001.json")

    assert begin(run, work, force=False).complete


def pack(run, lr, *, force=False):
    """Work of one unit that writes another segment, as the corpus does."""
    work = replace(work_of(lr, arrays=()), plan=UnitPlan((("all", 0, 1),), 1))
    begun = begin(run, work, force=force)
    plan = UnitPlan((("train", 0, 4),), 4)
    packed = Segment(f"{work.segment.name}-train", plan, arrays=(RESID,), rows_per_unit=4)
    for unit in begun.remaining:
        create_segment(begun.objects, packed)
        rows = {"resid": np.ones((4, 2), dtype=np.uint16)}
        shards = write_unit(
            begun.objects, packed, unit=packed.plan.units()[0], rows=rows, check=lambda: None
        )
        Receipts(begun.objects, packed.name).create(Receipt(0, term=0, valid=4, shards=shards))
        Receipts(begun.objects, work.segment.name).create(Receipt(unit.index, term=1, valid=4))
    return begun, packed


def test_segments_that_a_unit_wrote_are_published_instead_of_its_own(run):
    begun, packed = pack(run, 0.001)
    published = finish(begun, {}, segments=(packed,))

    assert published.segments == (packed,)
    assert begin(run, begun.work, force=False).complete
    assert len(SegmentReader(begun.objects, packed).units) == 1


def test_a_lost_receipt_of_such_a_segment_has_its_unit_done_again(run):
    begun, packed = pack(run, 0.001)
    finish(begun, {}, segments=(packed,))
    begun.objects.delete(f"receipts/{packed.name}/00000/00000000.json")

    again, packed = pack(run, 0.001)
    finish(again, {}, segments=(packed,))

    assert [u.index for u in again.remaining] == [0]
    assert begin(run, begun.work, force=False).complete
    assert len(SegmentReader(again.objects, packed).units) == 1


@pytest.mark.parametrize("interrupted", [False, True])
def test_such_segments_are_removed_when_they_are_replaced(run, interrupted):
    begun, packed = pack(run, 0.001)
    if not interrupted:
        finish(begun, {}, segments=(packed,))

    new, kept = pack(run, 0.002, force=True)
    finish(new, {}, segments=(kept,))

    assert [k for k in keys_of(run) if begun.work.segment.name in k] == []
    assert len(SegmentReader(new.objects, kept).units) == 1


def test_a_receipt_of_a_unit_outside_the_plan_is_named_and_stops_the_work(run):
    begun = begin(run, work_of(), force=False)
    foreign = Receipt(7, term=1, valid=4)
    Receipts(begun.objects, begun.work.segment.name).create(foreign)

    with pytest.raises(StoreError, match=r"has a receipt of unit 7 in .*, which has 3 .*\[7\]"):
        begin(run, work_of(), force=False)

    # What the command in the message does.
    assert Receipts(begun.objects, begun.work.segment.name).void(7, "foreign")
    assert len(begin(run, work_of(), force=False).remaining) == 3
