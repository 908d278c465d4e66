import json

import numpy as np
import pytest

from bathyscope.errors import ReceiptConflict
from bathyscope.stores.receipt_json import decode, encode
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.values import Moments, Receipt, ShardRecord


def receipt_of(unit=0, *, rows_digest="aa", host="node-1", pid=11, **changes):
    shard = ShardRecord(f"resid/seg/c.{unit}.0", 100, f"stored-{rows_digest}", rows_digest)
    fields = {"term": 1, "valid": 7, "shards": (shard,), "writer": {"host": host, "pid": pid}}
    return Receipt(unit=unit, **{**fields, **changes})


def test_sums_come_back_to_the_last_bit():
    odd = np.array([0.1, -0.0, 1e-310, 2.0**-1074, np.pi * 1e300, np.inf, np.nan])
    receipt = receipt_of(
        moments={"resid": {0: Moments(3, odd, odd[::-1]), 5: Moments(0, odd, odd)}}
    )

    back = decode(encode(receipt))

    assert list(back.moments["resid"]) == [0, 5]
    assert back.moments["resid"][0].n == 3
    assert back.moments["resid"][0].sum.tobytes() == odd.tobytes()
    assert back.moments["resid"][0].sum_sq.tobytes() == odd[::-1].tobytes()


def test_sums_may_be_written_to_after_reading():
    receipt = receipt_of(moments={"resid": {0: Moments(1, np.ones(2), np.ones(2))}})

    back = decode(encode(receipt)).moments["resid"][0]
    back.sum[0] = 5.0

    np.testing.assert_array_equal(back.sum, [5.0, 1.0])


def test_a_receipt_is_plain_json_and_comes_back_equal():
    receipt = receipt_of(3, figures={"key": "x", "scale": 0.1}, term=4, valid=0)

    assert json.loads(encode(receipt))["unit"] == 3
    assert decode(encode(receipt)) == receipt


def test_a_unit_without_a_receipt_is_not_done(objects):
    receipts = Receipts(objects, "seg")

    assert receipts.get(0) is None
    assert dict(StoredReceipts(receipts)) == {}
    assert receipts.units().tolist() == []


def test_what_is_created_is_found_by_its_unit(objects):
    receipts = Receipts(objects, "seg")
    made = receipts.create(receipt_of(12))

    assert made == receipts.get(12) == receipt_of(12)
    assert receipts.units().tolist() == [12]
    assert Receipts(objects, "other").units().tolist() == []


def test_all_are_in_order_of_units_over_folders(objects):
    receipts = Receipts(objects, "seg")
    for unit in (1000, 7, 999, 123_456, 0):
        receipts.create(receipt_of(unit))

    assert list(StoredReceipts(receipts)) == [0, 7, 999, 1000, 123_456]
    assert StoredReceipts(receipts)[999] == receipt_of(999)
    assert receipts.units().tolist() == [0, 7, 999, 1000, 123456]


def test_no_folder_holds_more_than_a_thousand():
    from bathyscope.stores.objects import Objects

    objects = Objects("memory://thousand-receipts")
    receipts = Receipts(objects, "seg")
    for unit in range(1500):
        receipts.create(receipt_of(unit))

    assert objects.children("receipts/seg") == ["00000", "00001"]
    assert len(objects.files("receipts/seg/00000")) == 1000
    assert len(objects.files("receipts/seg/00001")) == 500
    assert receipts.units().tolist() == list(range(1500))


def test_the_same_result_twice_is_accepted_and_the_first_stays(objects):
    receipts = Receipts(objects, "seg")
    first = receipt_of(1, host="node-1", term=1)
    receipts.create(first)

    again = receipts.create(receipt_of(1, host="node-2", term=3))

    assert again == first
    assert receipts.get(1) == first


@pytest.mark.parametrize(
    "changes", [{"rows_digest": "bb"}, {"valid": 8}, {"figures": {"key": "other"}}, {"shards": ()}]
)
def test_another_result_is_refused_and_both_are_set_aside(objects, changes):
    receipts = Receipts(objects, "seg")
    first = receipt_of(1, host="node-1", pid=11)
    second = receipt_of(1, **{"host": "node-2", "pid": 22, **changes})
    receipts.create(receipt_of(0))
    receipts.create(first)

    with pytest.raises(ReceiptConflict) as caught:
        receipts.create(second)

    text = str(caught.value)
    assert "Unit 1" in text
    assert "node-1 (process 11)" in text
    assert "node-2 (process 22)" in text
    assert "quarantine/seg/" in text
    assert receipts.get(1) is None
    assert receipts.units().tolist() == [0]
    kept = [name for name in objects.files("quarantine/seg") if name.endswith(".json")]
    assert {decode(objects.get(f"quarantine/seg/{name}")).writer["host"] for name in kept} == {
        "node-1",
        "node-2",
    }


def test_a_unit_that_was_set_aside_may_be_done_again(objects):
    receipts = Receipts(objects, "seg")
    receipts.create(receipt_of(1, rows_digest="aa"))
    with pytest.raises(ReceiptConflict):
        receipts.create(receipt_of(1, rows_digest="bb"))

    receipts.create(receipt_of(1, rows_digest="aa"))

    assert receipts.units().tolist() == [1]


@pytest.mark.parametrize(
    "figures", [{"edges": (1, 2)}, {"fvu": float("nan")}, {"n": {3: 1, 10: 2}}]
)
def test_figures_are_compared_as_they_are_stored(objects, figures):
    receipts = Receipts(objects, "seg")
    receipts.create(receipt_of(1, figures=figures))

    assert receipts.create(receipt_of(1, figures=figures)).unit == 1
    assert receipts.units().tolist() == [1]


def test_other_files_in_the_folder_are_passed_over(disk):
    receipts = Receipts(disk, "seg")
    receipts.create(receipt_of(1))
    disk.put("receipts/seg/.DS_Store", b"x")

    assert receipts.units().tolist() == [1]
    assert list(StoredReceipts(receipts)) == [1]


def test_a_second_result_is_compared_and_not_stored(objects):
    receipts = Receipts(objects, "seg")
    receipts.compare(receipt_of(3))
    assert receipts.get(3) is None, "nothing is there to compare with"

    receipts.create(receipt_of(3))
    receipts.compare(receipt_of(3, host="node-2"))

    assert receipts.get(3).writer["host"] == "node-1"


def test_a_second_result_that_differs_takes_the_receipt_back(objects):
    receipts = Receipts(objects, "seg")
    receipts.create(receipt_of(3))

    with pytest.raises(ReceiptConflict, match=r"node-1 .* and by node-2"):
        receipts.compare(receipt_of(3, rows_digest="bb", host="node-2"))

    assert receipts.get(3) is None
    assert len([k for k, _ in objects.walk("quarantine/seg") if k.endswith(".json")]) == 2
