import json

import numpy as np
import pytest
import torch

from bathyscope.errors import StoreError
from bathyscope.stores.moments import (
    classes_by_chunk,
    kept_by_chunk,
    moments,
    moments_by_class,
    total,
)
from bathyscope.values import Moments


def test_sums_of_three_rows_by_hand():
    found = moments(torch.tensor([[1.0, 0.0], [2.0, 2.0], [3.0, -2.0]], dtype=torch.bfloat16))

    assert found.n == 3
    assert found.sum.dtype == found.sum_sq.dtype == np.float64
    np.testing.assert_array_equal(found.sum, [6.0, 0.0])
    np.testing.assert_array_equal(found.sum_sq, [14.0, 8.0])


@pytest.mark.parametrize("num_rows", [1, 511, 512, 513, 5000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sums_agree_with_float64(num_rows, dtype):
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randn(num_rows, 9, generator=generator) * 3 + 5).to(dtype)
    wanted = rows.double().numpy()

    found = moments(rows)

    np.testing.assert_allclose(found.sum, wanted.sum(0), rtol=1e-5)
    np.testing.assert_allclose(found.sum_sq, (wanted**2).sum(0), rtol=1e-5)
    np.testing.assert_allclose(found.mean, wanted.mean(0), rtol=1e-5)
    assert found.mean_squared_deviation == pytest.approx(wanted.var(0).mean(), rel=1e-3, abs=1e-4)


def test_long_sums_lose_nothing_that_float32_would():
    # A float32 running sum of ones stops at 2**24.
    found = moments(torch.ones(2**24 + 512, 1))

    np.testing.assert_array_equal(found.sum, [2**24 + 512])


def test_no_rows_have_sums_of_zero():
    found = moments(torch.zeros(0, 4))

    assert found.n == 0
    np.testing.assert_array_equal(found.sum, np.zeros(4))


def test_classes_are_the_bit_patterns_that_occur():
    rows = torch.arange(12.0).reshape(6, 2)
    found = moments_by_class(rows, np.array([0, 5, 0, 1, 5, 5], dtype=np.uint8))

    assert list(found) == [0, 1, 5]
    assert [m.n for m in found.values()] == [2, 1, 3]
    np.testing.assert_array_equal(found[0].sum, [0 + 4, 1 + 5])
    np.testing.assert_array_equal(found[1].sum_sq, [36, 49])
    np.testing.assert_array_equal(found[5].sum, [2 + 8 + 10, 3 + 9 + 11])


def test_classes_add_up_to_the_whole():
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(1500, 5, generator=generator)
    mask = np.random.default_rng(1).integers(0, 4, size=1500).astype(np.uint8)

    whole = total(moments_by_class(rows, mask).values(), what="rows")

    assert whole.n == 1500
    np.testing.assert_allclose(whole.sum, moments(rows).sum, atol=1e-3)
    np.testing.assert_allclose(whole.sum_sq, moments(rows).sum_sq, rtol=1e-5)


def test_no_rows_have_no_class():
    assert moments_by_class(torch.zeros(0, 4), np.zeros(0, dtype=np.uint8)) == {}


def test_a_total_of_nothing_is_an_error_that_says_of_what():
    with pytest.raises(StoreError, match=r"no rows of resid, split train .* masks and split"):
        total([], what="resid, split train")


def test_a_total_is_added_in_the_order_given():
    parts = [Moments(1, np.array([x]), np.array([x])) for x in (1e16, 1.0, -1e16)]

    np.testing.assert_array_equal(total(iter(parts), what="rows").sum, [0.0])
    np.testing.assert_array_equal(total([parts[0], parts[2], parts[1]], what="rows").sum, [1.0])


def test_classes_are_counted_per_chunk():
    mask = np.array([1, 0, 0, 4, 0, 4, 4], dtype=np.uint8)

    classes = json.loads(json.dumps(classes_by_chunk(mask, 3)))

    assert classes == {
        "chunk_rows": 3,
        "patterns": [0, 1, 4],
        "counts": [[2, 1, 0], [1, 0, 0], [0, 2, 1]],
    }
    assert kept_by_chunk(classes, lambda p: (p & 1) == 0).tolist() == [2, 3, 1]
    assert kept_by_chunk(classes, lambda p: p == 9).tolist() == [0, 0, 0]


@pytest.mark.parametrize("num_rows", [1, 700, 1024])
def test_every_class_has_the_sums_of_its_own_rows(num_rows):
    generator = torch.Generator().manual_seed(1)
    rows = (torch.randn(num_rows, 5, generator=generator) + 2).bfloat16()
    # Large and small classes, one of them in a single block, ties for the largest.
    mask = np.array([0, 0, 4, 4, 1] * 205, dtype=np.uint8)[:num_rows]
    mask[600:603] = 7

    found = moments_by_class(rows, mask)

    assert sorted(found) == sorted(set(mask.tolist()))
    for pattern, sums in found.items():
        wanted = rows[torch.from_numpy(mask == pattern)].double().numpy()
        assert sums.n == len(wanted)
        np.testing.assert_allclose(sums.sum, wanted.sum(0), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(sums.sum_sq, (wanted**2).sum(0), rtol=1e-5)


def test_a_class_with_nan_leaves_the_others_finite():
    rows = torch.ones(4, 2)
    rows[1] = float("nan")

    found = moments_by_class(rows, np.array([0, 1, 0, 0], dtype=np.uint8))

    assert found[0].sum.tolist() == [3.0, 3.0]
    assert np.isnan(found[1].sum).all()
