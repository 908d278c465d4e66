import numpy as np
import pytest

from bathyscope.values import Moments, Receipt, ShardRecord, Unit, UnitPlan, Units


def test_units_are_numbered_over_all_ranges_and_never_join_two():
    plan = UnitPlan((("train", 0, 5), ("held_out", 5, 9)), 2)

    assert plan.units() == [
        Unit(0, 0, 2, "train"),
        Unit(1, 2, 4, "train"),
        Unit(2, 4, 5, "train"),
        Unit(3, 5, 7, "held_out"),
        Unit(4, 7, 9, "held_out"),
    ]
    assert plan.num_units == 5
    assert [u.num_items for u in plan.units()] == [2, 2, 1, 2, 2]


@pytest.mark.parametrize(
    ("ranges", "per_unit", "count"),
    [
        ((), 3, 0),
        ((("train", 0, 0),), 3, 0),
        ((("train", 0, 1),), 3, 1),
        ((("train", 7, 10),), 3, 1),
        ((("train", 0, 4), ("held_out", 4, 4)), 3, 2),
        ((("train", 0, 10**9),), 1000, 10**6),
    ],
)
def test_units_are_counted_without_listing_them(ranges, per_unit, count):
    assert UnitPlan(ranges, per_unit).num_units == count


def test_a_plan_survives_json():
    plan = UnitPlan((("train", 0, 5), ("held_out", 5, 9)), 2)

    assert UnitPlan.from_dict(plan.to_dict()) == plan


def test_moments_add_up():
    left = Moments(1, np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    right = Moments(2, np.array([5.0, 0.0]), np.array([13.0, 8.0]))

    both = left + right

    assert both.n == 3
    np.testing.assert_array_equal(both.sum, [6.0, 2.0])
    np.testing.assert_array_equal(both.sum_sq, [14.0, 12.0])


def test_mean_and_deviation_of_three_rows():
    # Rows (1, 0), (2, 2), (3, -2): means 2 and 0, variances 2/3 and 8/3.
    moments = Moments(3, np.array([6.0, 0.0]), np.array([14.0, 8.0]))

    np.testing.assert_allclose(moments.mean, [2.0, 0.0])
    assert moments.mean_squared_deviation == pytest.approx((2 / 3 + 8 / 3) / 2)


def test_a_unit_is_found_by_its_index_without_listing_the_others():
    plan = UnitPlan((("train", 0, 7), ("held_out", 7, 10**12)), 3)

    assert plan.num_units == 3 + -(-(10**12 - 7) // 3)
    assert plan.unit(2) == Unit(2, 6, 7, "train")
    assert plan.unit(3) == Unit(3, 7, 10, "held_out")
    last = plan.num_units - 1
    assert plan.units()[last].stop == 10**12
    assert plan.indices("held_out") == range(3, plan.num_units)
    assert plan.indices("other") == range(0)
    with pytest.raises(IndexError, match="unit 3 of a plan of 3"):
        UnitPlan((("train", 0, 7),), 3).unit(3)
    with pytest.raises(IndexError):
        plan.unit(-1)


def test_units_that_hold_some_items_are_found_across_splits():
    plan = UnitPlan((("train", 0, 7), ("held_out", 7, 12)), 3)

    for start in range(13):
        for stop in range(start + 1, 13):
            wanted = [u for u in plan.units() if u.start < stop and start < u.stop]
            assert plan.overlapping(start, stop) == wanted, (start, stop)
    assert len(plan.overlapping(5, 5)) == 0


def test_units_are_a_sequence_that_is_made_when_it_is_read():
    plan = UnitPlan((("train", 0, 10),), 2)
    some = Units(plan, np.array([4, 1, 2]))

    assert len(some) == 3
    assert some == [Unit(4, 8, 10), Unit(1, 2, 4), Unit(2, 4, 6)]
    assert some[1:] == [Unit(1, 2, 4), Unit(2, 4, 6)]
    assert some[-1] == Unit(2, 4, 6)
    assert some != [Unit(4, 8, 10)]
    assert repr(some[:1]) == "Units([Unit(index=4, start=8, stop=10, split='train')], 1 in all)"
    with pytest.raises(IndexError):
        some[3]


def test_no_rows_have_mean_and_deviation_zero():
    moments = Moments(0, np.zeros(2), np.zeros(2))

    np.testing.assert_array_equal(moments.mean, [0.0, 0.0])
    assert moments.mean_squared_deviation == 0.0


def test_rounding_never_gives_a_negative_deviation():
    # One row of 0.1, whose square in float64 is above the product of the stored sums.
    moments = Moments(3, np.array([0.1 * 3]), np.array([0.1 * 0.1 * 3 - 1e-17]))

    assert moments.mean_squared_deviation >= 0.0


def test_results_are_compared_by_rows_and_not_by_codec_time_or_place():
    shard = ShardRecord("k", 10, "stored", "rows")
    receipt = Receipt(0, term=1, valid=2, shards=(shard,), writer={"host": "a"})
    stored_otherwise = ShardRecord("k", 9, "compressed", "rows")

    assert receipt.same_result(
        Receipt(0, term=5, valid=2, shards=(stored_otherwise,), writer={"host": "b"})
    )
    other_rows = ShardRecord("k", 10, "stored", "other")
    other_key = ShardRecord("k2", 10, "stored", "rows")
    assert not receipt.same_result(Receipt(0, term=1, valid=2, shards=(other_rows,)))
    assert not receipt.same_result(Receipt(0, term=1, valid=2, shards=(other_key,)))
    assert not receipt.same_result(Receipt(0, term=1, valid=3, shards=(shard,)))
    assert not receipt.same_result(Receipt(0, term=1, valid=2, shards=(shard, shard)))
    assert not receipt.same_result(Receipt(0, term=1, valid=2, shards=(shard,), figures={"a": 1}))
