"""Order keys: packing keeps the order, unpacking gives back what went in."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope_kernels.keys import pack_keys, unpack_keys

_floats = st.floats(width=32, allow_nan=False)


def test_a_hand_worked_key() -> None:
    # 1.0 is 0x3F800000; index 5 reversed is 0xFFFFFFFA.
    assert pack_keys(torch.tensor([1.0]), torch.tensor([5])).tolist() == [0x3F800000_FFFFFFFA]
    # -1.0 is 0xBF800000, whose lower 31 bits flip: 0xC07FFFFF as a signed number.
    expected = ((0xC07FFFFF - 2**32) << 32) | 0xFFFFFFFF
    assert pack_keys(torch.tensor([-1.0]), torch.tensor([0])).tolist() == [expected]


def test_special_values_are_in_order() -> None:
    values = torch.tensor(
        [math.nan, math.inf, 3.4e38, 1.0, 1e-45, 0.0, -1e-45, -1.0, -math.inf],
        dtype=torch.float32,
    )
    keys = pack_keys(values, torch.zeros(9, dtype=torch.int64))
    assert torch.equal(keys, keys.sort(descending=True).values)
    assert keys.unique().numel() == 9


def test_equal_values_order_by_smaller_index() -> None:
    # -0.0 equals 0.0, and a NaN equals a NaN of another sign and payload.
    nans = torch.tensor([0x7FC00000, -0x400000, 0x7F800001], dtype=torch.int32)
    for values in (torch.tensor([0.0, -0.0, 0.0]), nans.view(torch.float32)):
        keys = pack_keys(values, torch.tensor([2, 0, 1]))
        assert keys.argsort(descending=True).tolist() == [1, 2, 0]


def test_the_largest_index_survives() -> None:
    values, indices = unpack_keys(
        pack_keys(torch.tensor([-2.5, 7.0]), torch.tensor([2**32 - 1, 0]))
    )
    assert values.tolist() == [-2.5, 7.0]
    assert indices.tolist() == [2**32 - 1, 0]


def test_nan_survives() -> None:
    values, indices = unpack_keys(pack_keys(torch.tensor([-math.nan]), torch.tensor([3])))
    assert values.isnan().all()
    assert indices.tolist() == [3]


@settings(max_examples=200, deadline=None)
@given(_floats, _floats, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_keys_compare_as_value_then_smaller_index(a: float, b: float, i: int, j: int) -> None:
    first, second = pack_keys(torch.tensor([a, b]), torch.tensor([i, j])).tolist()
    # Python compares -0.0 and 0.0 as equal, as the keys shall.
    assert (first > second) == ((a, -i) > (b, -j))
    assert (first == second) == ((a, i) == (b, j))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(_floats, st.integers(0, 2**32 - 1)), max_size=20))
def test_unpack_gives_back_what_was_packed(pairs: list[tuple[float, int]]) -> None:
    values = torch.tensor([value for value, _ in pairs], dtype=torch.float32)
    indices = torch.tensor([index for _, index in pairs], dtype=torch.int64)
    unpacked = unpack_keys(pack_keys(values, indices))
    assert torch.equal(unpacked[0], values)
    assert torch.equal(unpacked[1], indices)


def test_wrong_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted torch\.float32"):
        pack_keys(torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="integer dtype"):
        pack_keys(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"torch\.int64"):
        unpack_keys(torch.zeros(2))
