import json

import numpy as np
import pytest

from bathyscope.errors import StoreError
from bathyscope.stores.packs import GROUP, Packs
from receipts import receipt_of

SPLITS = dict.fromkeys(range(GROUP, 2 * GROUP), "train")


@pytest.fixture
def packs(objects):
    """The packs of an empty segment."""
    return Packs(objects, "seg")


def members(**changes):
    return (receipt_of(unit, **changes) for unit in range(GROUP, 2 * GROUP))


def same(one, other):
    assert vars(one) | {"moments": 0} == vars(other) | {"moments": 0}
    assert sorted(one.moments) == sorted(other.moments)
    for array, classes in one.moments.items():
        assert list(classes) == list(other.moments[array])
        for mask_class, moments in classes.items():
            there = other.moments[array][mask_class]
            assert moments.n == there.n
            assert moments.sum.tobytes() == there.sum.tobytes()
            assert moments.sum_sq.tobytes() == there.sum_sq.tobytes()


def test_every_receipt_comes_back_to_the_last_bit(packs):
    assert packs.create(1, 0, members(), SPLITS)
    pack = packs.current(1)

    for unit in (1000, 1063, 1064, 1999):
        same(receipt_of(unit), pack.receipt(unit))
    back = [receipt for batch in pack.batches() for receipt in batch]
    assert [r.unit for r in back] == list(range(1000, 2000))
    same(receipt_of(1500), back[500])


def test_counts_come_from_their_columns(packs):
    packs.create(1, 0, members(), SPLITS)

    valid, stored = packs.current(1).counts()

    assert valid.tolist() == [500 + u % 11 for u in range(1000, 2000)]
    assert stored.tolist() == [2 * (1000 + u % 7) for u in range(1000, 2000)]
    writers = packs.current(1).writers()
    assert sorted(json.loads(w)["host"] for w in writers) == [f"node-1-{i}" for i in range(4)]


def test_totals_are_added_in_order_of_units_per_split(packs):
    splits = SPLITS | dict.fromkeys(range(1600, 2000), "held_out")
    packs.create(1, 0, members(), splits)

    totals = packs.current(1).totals()

    assert sorted({split for split, _, _ in totals}) == ["held_out", "train"]
    by_hand = np.zeros(3)
    for unit in range(1000, 1600):
        by_hand = by_hand + receipt_of(unit).moments["resid"][5].sum
    assert totals["train", "resid", 5].sum.tobytes() == by_hand.tobytes()


def test_receipts_without_sums_have_none(packs):
    packs.create(1, 0, members(sums=False), SPLITS)

    assert dict(packs.current(1).receipt(1000).moments) == {}
    assert packs.current(1).totals() == {}
    assert all(not r.moments for batch in packs.current(1).batches() for r in batch)


def test_the_highest_number_counts_and_only_one_creates_it(packs):
    assert (packs.number(1), packs.numbers(), packs.current(1)) == (0, {}, None)
    assert packs.create(1, 0, members(), SPLITS)
    assert not packs.create(1, 0, members(seed=9), SPLITS)
    same(receipt_of(1000), packs.current(1).receipt(1000))

    assert packs.reopen(1, after=1)
    assert not packs.reopen(1, after=1)
    assert (packs.numbers(), packs.current(1)) == ({1: 2}, None)

    assert packs.create(1, 2, members(seed=5), SPLITS)
    packs.drop_below(1, 3)
    same(receipt_of(1000, seed=5), packs.current(1).receipt(1000))
    assert packs.numbers() == {1: 3}


def test_opening_an_open_group_again_overtakes_a_pack_under_way(packs):
    assert packs.reopen(1, after=0)

    assert packs.create(1, 0, members(), SPLITS), "number 1 is free, but overtaken"
    assert packs.current(1) is None


def test_the_loser_leaves_no_sums_behind(packs, objects):
    packs.create(1, 0, members(), SPLITS)
    packs.create(1, 0, members(), SPLITS)

    assert len(objects.files("receipts/seg/packs/00001")) == 3


@pytest.mark.parametrize("where", ["whole", "counts", "sums", "totals"])
@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "other"])
def test_damage_is_named_and_nothing_is_used(packs, objects, where, how):
    packs.create(1, 0, members(), SPLITS)
    ending = {"sums": ".moments.parquet", "totals": ".totals.parquet"}.get(where, "0001.parquet")
    (name,) = [n for n in objects.files("receipts/seg/packs/00001") if n.endswith(ending)]
    key = f"receipts/seg/packs/00001/{name}"
    data = bytearray(objects.get(key))
    data[len(data) // 3] ^= 64
    damaged = {"cut": data[:-20], "flipped": data, "empty": b"", "other": b"no parquet " * 9}[how]
    objects.put(key, bytes(damaged))
    pack = packs.current(1)

    with pytest.raises(StoreError, match=f"{name}.* is no pack of receipts.*bathyscope verify"):
        _use(pack, where)


def _use(pack, where):
    if where == "sums":
        # Each unit: the damage touches one row group.
        assert sum(len(batch) for batch in pack.batches()) == GROUP
    elif where == "totals":
        pack.totals()
    elif where == "counts":
        pack.counts()
        pack.receipt(1000)
    else:
        pack.receipt(1000)


def test_the_pack_of_another_group_is_refused(packs, objects):
    packs.create(1, 0, members(), SPLITS)
    objects.put(
        "receipts/seg/packs/00002/0001.parquet",
        objects.get("receipts/seg/packs/00001/0001.parquet"),
    )

    with pytest.raises(StoreError, match=r"other units than those of group 2"):
        packs.current(2).receipt(2000)
    with pytest.raises(StoreError, match=r"other units than those of group 2"):
        packs.current(2).counts()
