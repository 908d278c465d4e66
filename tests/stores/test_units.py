import numpy as np
import pytest

from bathyscope.errors import LeaseLost
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.shards import open_array
from bathyscope.stores.units import create_segment, shards_of, write_unit


def write(objects, segment, rows, unit, check=lambda: None):
    return write_unit(objects, segment, unit=segment.plan.units()[unit], rows=rows, check=check)


def test_shards_of_a_unit_follow_from_its_number(small_segment):
    units = small_segment.plan.units()

    assert [list(shards_of(small_segment, u, "wide")) for u in units] == [[0, 1], [2, 3], [4, 5]]
    assert [list(shards_of(small_segment, u, "narrow")) for u in units] == [[0], [1], [2]]


def test_a_unit_fills_its_own_shards_of_every_array(objects, small_segment, small_rows):
    create_segment(objects, small_segment)
    part = {name: rows[8:16] for name, rows in small_rows.items()}

    records = write(objects, small_segment, part, 1)

    assert [r.key for r in records] == ["wide/seg/c.2.0", "wide/seg/c.3.0", "narrow/seg/c.1"]
    # 4 rows of 6 bytes in 2 chunks, and 8 rows of 4 bytes in 2 chunks.
    assert [r.size_bytes for r in records] == [24 + 44, 24 + 44, 32 + 44]
    wide = open_array(objects, "seg", "wide")
    assert wide.shape == (24, 3)
    np.testing.assert_array_equal(wide[8:16], small_rows["wide"][8:16])
    np.testing.assert_array_equal(wide[:8], 0)


def test_the_last_unit_is_padded_to_whole_shards(objects, small_segment, small_rows):
    create_segment(objects, small_segment)
    part = {name: rows[16:20] for name, rows in small_rows.items()}

    records = write(objects, small_segment, part, 2)

    assert [r.key for r in records] == ["wide/seg/c.4.0", "wide/seg/c.5.0", "narrow/seg/c.2"]
    np.testing.assert_array_equal(open_array(objects, "seg", "wide")[16:20], part["wide"])
    np.testing.assert_array_equal(open_array(objects, "seg", "wide")[20:], 0)
    np.testing.assert_array_equal(open_array(objects, "seg", "narrow")[20:], 0)


def test_the_lease_is_confirmed_before_every_shard(objects, small_segment, small_rows):
    create_segment(objects, small_segment)
    seen = []

    def check():
        seen.append(sum(1 for key, _ in objects.walk() if "/c." in key))

    write(objects, small_segment, {n: r[:8] for n, r in small_rows.items()}, 0, check)

    assert seen == [0, 1, 2]


def test_a_lost_lease_stops_the_writer_before_the_shard(objects, small_segment, small_rows):
    create_segment(objects, small_segment)
    calls = iter([None, LeaseLost("taken")])

    def check():
        error = next(calls)
        if error:
            raise error

    with pytest.raises(LeaseLost, match="taken"):
        write(objects, small_segment, {n: r[:8] for n, r in small_rows.items()}, 0, check)

    assert [k for k, _ in objects.walk() if "/c." in k] == ["wide/seg/c.0.0"]
    assert Receipts(objects, "seg").units().tolist() == []


def test_more_rows_than_a_unit_holds_are_refused(objects, small_segment, small_rows):
    create_segment(objects, small_segment)

    with pytest.raises(AssertionError):
        write(objects, small_segment, small_rows, 0)


def test_a_segment_is_created_once_and_again_without_harm(objects, small_segment):
    create_segment(objects, small_segment)
    create_segment(objects, small_segment)

    assert open_array(objects, "seg", "narrow").shape == (24,)


def test_a_unit_that_is_only_compared_leaves_the_same_records_and_no_object(
    objects, small_segment, small_rows
):
    create_segment(objects, small_segment)
    part = {name: rows[8:16] for name, rows in small_rows.items()}
    unit = small_segment.plan.units()[1]

    def check():
        raise AssertionError("no lease is needed")

    compared = write_unit(objects, small_segment, unit=unit, rows=part, check=check, keep=False)

    assert not [k for k, _ in objects.walk() if "/c." in k]
    assert compared == write(objects, small_segment, part, 1)
