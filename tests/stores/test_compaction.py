import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bathyscope.errors import ReceiptConflict, StoreError
from bathyscope.stores import compaction
from bathyscope.stores.compaction import compact
from bathyscope.stores.objects import Objects
from bathyscope.stores.packs import GROUP
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.stored_receipts import StoredReceipts, moments_of
from bathyscope.values import UnitPlan
from receipts import put_receipts, receipt_of

# 2,300 units: two full thousands and a rest; the split changes within the second.
PLAN = UnitPlan((("train", 0, 1700), ("held_out", 1700, 2300)), 1)
SUPPORT = Path(__file__).parents[1] / "support"
_numbers = itertools.count()


@pytest.fixture
def receipts():
    """All receipts of the plan, one by one, in memory."""
    found = Receipts(Objects(f"memory://compaction-{next(_numbers)}"), "seg")
    put_receipts(found, range(PLAN.num_units))
    return found


@pytest.fixture
def on_disk(tmp_path):
    """The receipts of the first thousand, one by one, on disk."""
    found = Receipts(Objects(str(tmp_path / "store")), "seg")
    put_receipts(found, range(GROUP))
    return found


def loose(receipts):
    return receipts.listed()[0].tolist()


def everything(receipts):
    stored = StoredReceipts(receipts)
    totals = [
        {key: (m.n, m.sum.tobytes(), m.sum_sq.tobytes()) for key, m in group.items()}
        for group in stored.totals(PLAN)
    ]
    counts = stored.counts
    return (
        stored.units.tolist(),
        counts.valid.tolist(),
        counts.stored_bytes.tolist(),
        stored.written_by("host"),
        totals,
    )


def test_packing_changes_nothing_that_is_read(receipts):
    before = everything(receipts)

    assert compact(receipts, PLAN) == 2

    assert loose(receipts) == list(range(2000, 2300))
    assert everything(receipts) == before
    assert compact(receipts, PLAN) == 0
    stored = StoredReceipts(receipts)
    assert len(stored) == 2300
    assert [unit in stored for unit in (1999, 2299, 2300, "2")] == [True, True, False, False]
    assert stored[3].shards == stored[np.int64(3)].shards == receipt_of(3).shards
    assert receipts.get(2299).shards == receipt_of(2299).shards
    assert stored[1234].moments["resid"][5].sum.tobytes() == (
        receipt_of(1234).moments["resid"][5].sum.tobytes()
    )


def test_it_works_on_every_kind_of_store(objects):
    receipts = Receipts(objects, "seg")
    put_receipts(receipts, range(GROUP))
    before = everything(receipts)

    assert compact(receipts, PLAN) == 1
    assert everything(receipts) == before
    assert loose(receipts) == []
    assert receipts.void(3, "a test")
    assert receipts.units().tolist() == [u for u in range(GROUP) if u != 3]


def test_moments_of_a_split_are_found_by_array(receipts):
    compact(receipts, PLAN)
    first, second, third = StoredReceipts(receipts).totals(PLAN)

    assert sorted(moments_of(first, "train", "resid")) == [0, 5]
    assert moments_of(first, "held_out", "resid") == {}
    assert moments_of(second, "train", "resid")[0].n > 0
    assert moments_of(third, "train", "resid") == {}
    assert moments_of(third, "held_out", "other") == {}


def test_a_thousand_with_a_hole_stays_as_it_is(receipts):
    receipts.void(1500, "a test")

    assert compact(receipts, PLAN) == 1
    assert len(loose(receipts)) == 1299


def test_an_empty_segment_has_nothing_to_pack():
    receipts = Receipts(Objects("memory://compaction-empty"), "seg")

    assert compact(receipts, PLAN) == 0
    assert everything(receipts) == ([], [], [], set(), [])


def test_a_worker_that_comes_late_with_the_same_result_finds_it_packed(receipts):
    compact(receipts, PLAN)

    there = receipts.create(receipt_of(5, host="late"))

    assert there.writer == receipt_of(5).writer
    assert loose(receipts) == list(range(2000, 2300))


def test_a_late_result_that_differs_opens_the_pack_and_sets_both_aside(receipts):
    compact(receipts, PLAN)

    with pytest.raises(ReceiptConflict, match="Unit 5 of"):
        receipts.create(receipt_of(5, seed=1))

    assert receipts.get(5) is None
    assert receipts.units().tolist() == [u for u in range(2300) if u != 5]
    assert loose(receipts) == [u for u in range(1000) if u != 5] + list(range(2000, 2300))
    assert len(receipts.objects.files("quarantine/seg")) == 4


def test_what_a_killed_compaction_left_is_removed_by_the_next(receipts):
    compact(receipts, PLAN)
    put_receipts(receipts, range(990, 1010))

    assert len(StoredReceipts(receipts)) == 2300
    assert compact(receipts, PLAN) == 0
    assert loose(receipts) == list(range(2000, 2300))


def test_a_stranger_beside_a_pack_is_found(receipts):
    compact(receipts, PLAN)
    put_receipts(receipts, [7], seed=1)

    with pytest.raises(ReceiptConflict, match="Unit 7"):
        compact(receipts, PLAN)
    assert receipts.get(7) is None


def test_a_voided_unit_can_be_done_again_and_packed_again(receipts):
    compact(receipts, PLAN)
    before = everything(receipts)
    assert receipts.void(1234, "its shard was cut short")
    assert not receipts.void(1234, "again")

    assert receipts.get(1234) is None
    assert len(receipts.units()) == 2299
    assert compact(receipts, PLAN) == 0
    receipts.create(receipt_of(1234))
    assert compact(receipts, PLAN) == 1
    assert everything(receipts) == before
    names = receipts.objects.files("quarantine/seg")
    assert [name[:8] for name in names] == ["00001234", "00001234"]
    assert b"cut short" in receipts.objects.get(f"quarantine/seg/{names[-1]}")


@pytest.mark.parametrize("packed_before", [False, True])
def test_a_pack_under_way_does_not_bring_a_voided_unit_back(receipts, monkeypatch, packed_before):
    if packed_before:
        compact(receipts, PLAN)
        receipts.void(8, "to open the group")
        receipts.create(receipt_of(8))
    members = compaction._members

    def interrupted(receipts, units):
        yield from members(receipts, units)
        # All receipts were read, nothing is created yet.
        Receipts(receipts.objects, "seg").void(5, "a test")

    monkeypatch.setattr(compaction, "_members", interrupted)
    compaction.pack(receipts, PLAN, 0)

    assert receipts.get(5) is None
    assert 5 not in receipts.units()
    monkeypatch.undo()
    receipts.create(receipt_of(5))
    assert compact(receipts, PLAN) == (1 if packed_before else 2)
    assert len(receipts.units()) == 2300


def test_receipts_voided_by_a_reader_s_side_are_named(receipts):
    stored = StoredReceipts(receipts)
    receipts.void(3, "a test")

    with pytest.raises(StoreError, match=r"receipt of unit 3 .*taken back"):
        stored[3]


def test_a_reader_of_loose_receipts_follows_them_into_the_pack(receipts):
    stored = StoredReceipts(receipts)
    compact(receipts, PLAN)

    assert stored[3].shards == receipt_of(3).shards
    assert stored[2100].moments["resid"][0].n == receipt_of(2100).moments["resid"][0].n


def test_counts_of_loose_receipts_follow_them_into_the_pack(on_disk):
    stored = StoredReceipts(on_disk)
    compact(on_disk, PLAN)

    assert stored.counts.valid.tolist()[:2] == [500, 501]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no receipt"),
        (b"{", "is no receipt"),
        (b"[]", "is no receipt"),
        (b'{"unit": 3}', "is no receipt"),
        (b"\xff\xfe", "is no receipt"),
    ],
)
def test_a_damaged_receipt_is_named_with_its_repair(receipts, data, said):
    receipts.objects.put(receipts.key(3), data)

    for use in (lambda: receipts.get(3), lambda: StoredReceipts(receipts).counts):
        with pytest.raises(StoreError, match=rf"00000003\.json .*{said}.*redo .*units=\[3\]"):
            use()
    assert receipts.void(3, "damaged")
    assert receipts.get(3) is None


def test_a_receipt_under_another_name_is_refused(receipts):
    receipts.objects.put(receipts.key(3), receipts.objects.get(receipts.key(4)))

    with pytest.raises(StoreError, match=r"00000003\.json .* is the receipt of unit 4"):
        StoredReceipts(receipts)[3]


def test_a_pack_that_cannot_be_read_is_taken_back_as_a_whole(receipts):
    compact(receipts, PLAN)
    receipts.objects.put("receipts/seg/packs/00001/0001.parquet", b"rubbish")

    with pytest.raises(StoreError, match="no pack"):
        receipts.get(1005)
    assert receipts.void_pack(1, "damaged")
    assert not receipts.void_pack(1, "damaged")
    assert receipts.get(1005) is None
    assert receipts.units().tolist() == [*range(1000), *range(2000, 2300)]
    assert any(name.startswith("pack-00001") for name in receipts.objects.files("quarantine/seg"))


_PROGRAM = """
import os, signal, sys
sys.path.insert(0, {support!r})
from bathyscope.stores.compaction import compact
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.values import UnitPlan

class Killed(Objects):
    left = int(sys.argv[3])
    def at(self, prefix):
        raise NotImplementedError
    def _count(self):
        Killed.left -= 1
        if Killed.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    def put(self, *a, **k):
        self._count(); return super().put(*a, **k)
    def create(self, *a, **k):
        self._count(); return super().create(*a, **k)
    def delete(self, *a, **k):
        self._count(); return super().delete(*a, **k)
    def delete_many(self, keys):
        for key in keys:
            super().delete_many([key]); self._count()

receipts = Receipts(Killed(sys.argv[1]), "seg")
if sys.argv[2] == "compact":
    compact(receipts, UnitPlan((("train", 0, 1700), ("held_out", 1700, 2300)), 1))
else:
    receipts.void(5, "a test")
"""


def _run(receipts, what, kill_after):
    program = _PROGRAM.format(support=str(SUPPORT))
    command = [sys.executable, "-c", program, receipts.objects.url, what, str(kill_after)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("kill_after", [0, 1, 2, 3, 500])
def test_a_compaction_may_be_killed_at_any_write(on_disk, kill_after):
    before = everything(on_disk)

    assert _run(on_disk, "compact", kill_after).wait() == -signal.SIGKILL

    assert everything(on_disk) == before
    compact(on_disk, PLAN)
    assert everything(on_disk) == before
    assert loose(on_disk) == []


@pytest.mark.parametrize("kill_after", [0, 1, 2, 400, 1001, 1002, 1003, 1004])
def test_voiding_may_be_killed_at_any_write(on_disk, kill_after):
    compact(on_disk, PLAN)

    _run(on_disk, "void", kill_after).wait()

    others = [u for u in range(GROUP) if u != 5]
    assert [u for u in on_disk.units().tolist() if u != 5] == others
    on_disk.void(5, "again")
    assert on_disk.units().tolist() == others
    on_disk.create(receipt_of(5))
    compact(on_disk, PLAN)
    assert on_disk.units().tolist() == list(range(GROUP))


def test_two_compactions_at_once_make_one_pack(on_disk):
    before = everything(on_disk)

    both = [_run(on_disk, "compact", 10**6) for _ in range(2)]

    assert [p.wait() for p in both] == [0, 0]
    assert everything(on_disk) == before
    compact(on_disk, PLAN)
    assert loose(on_disk) == []
    assert len(on_disk.objects.files("receipts/seg/packs/00000")) == 3
