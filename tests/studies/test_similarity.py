"""CKA against n x n formulas and known values, canonical correlations against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bathyscope.errors import NonFiniteError
from bathyscope.studies.canonical import pwcca, svcca
from bathyscope.studies.jackknife import jackknife
from bathyscope.studies.paired_moments import PairedMoments
from bathyscope.studies.similarity import gaussian_floor, linear_cka


def rows(n, d, *, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(x, y, *, block=97, **shifts):
    made = PairedMoments(x.shape[1], y.shape[1], **shifts)
    for some_x, some_y in zip(x.split(block), y.split(block), strict=True):
        made.update(some_x, some_y)
    return made


def rotation(d, *, seed=5):
    return torch.linalg.qr(rows(d, d, seed=seed)).Q


def direct_cka(x, y):
    """Both forms of CKA from the n x n kernels."""
    n = len(x)
    centre = np.eye(n) - 1 / n
    K, L = (x @ x.T).numpy(), (y @ y.T).numpy()

    def hsic0(K, L):
        return np.trace(K @ centre @ L @ centre)

    def hsic1(K, L):
        K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
        last = 2 / (n - 2) * (K @ L).sum()
        return np.trace(K @ L) + K.sum() * L.sum() / ((n - 1) * (n - 2)) - last

    return [h(K, L) / math.sqrt(h(K, K) * h(L, L)) for h in (hsic0, hsic1)]


@pytest.mark.parametrize(("n", "shift"), [(200, 0.0), (30, 3.0), (4, 0.0)])
def test_streamed_is_the_n_by_n_formula(n: int, shift: float) -> None:
    x = rows(n, 7, seed=1) + shift
    y = x[:, :5] @ rows(5, 5, seed=2) + rows(n, 5, seed=3)

    found = linear_cka(moments(x, y))

    assert list(found[:2]) == pytest.approx(direct_cka(x, y), abs=1e-10)


def test_a_rotated_or_scaled_copy_has_similarity_one() -> None:
    x = rows(300, 20) * torch.arange(1, 21)
    for y in (x @ rotation(20), -3.5 * x, x + 7):
        found = linear_cka(moments(x, y))
        assert list(found[:2]) == pytest.approx([1.0, 1.0], abs=1e-12)


@pytest.mark.parametrize(
    ("n", "d", "wanted"), [(4000, 100, 0.0245), (500, 500, 0.500), (200, 1000, 0.834)]
)
def test_unrelated_rows(n: int, d: int, wanted: float) -> None:
    found = linear_cka(moments(rows(n, d, seed=1), rows(n, d, seed=2), block=1000))

    assert found.cka == pytest.approx(wanted, abs=2e-3)
    assert gaussian_floor(n, d) == pytest.approx(found.cka, abs=2e-3)
    # Its standard deviation is √2 / n for independent Gaussians.
    assert abs(found.debiased_cka) < 3 * math.sqrt(2) / n


def test_shifts_change_nothing_but_save_digits_of_large_means() -> None:
    x, y = rows(200, 6, seed=1) + 1e4, rows(200, 4, seed=2)
    y[:, 0] += x[:, 0] - 1e4
    wanted = direct_cka(x - 1e4, y)
    with pytest.raises(ValueError, match="pass the mean of these rows as shift_x"):
        linear_cka(moments(x, y))

    found = linear_cka(moments(x, y, shift_x=x.mean(0)))

    assert list(found[:2]) == pytest.approx(wanted, abs=1e-10)


def test_merge_without_and_json() -> None:
    x, y = rows(60, 3, seed=1), rows(60, 2, seed=2)
    first, second = moments(x[:20], y[:20]), moments(x[20:], y[20:])
    merged = PairedMoments.from_dict(first.to_dict())
    merged.merge(second)

    assert linear_cka(merged)[:2] == pytest.approx(linear_cka(moments(x, y))[:2], abs=1e-13)
    left = merged.without(second)
    assert linear_cka(left)[:2] == pytest.approx(linear_cka(first)[:2], abs=1e-12)
    with pytest.raises(ValueError, match="cannot take 60 rows from 20"):
        first.without(merged)
    with pytest.raises(ValueError, match="cannot join widths"):
        first.merge(PairedMoments(3, 3))
    with pytest.raises(ValueError, match="shifted differently"):
        first.merge(PairedMoments(3, 2, shift_x=torch.ones(3)))


def test_a_side_that_does_not_vary_has_no_similarity() -> None:
    found = linear_cka(moments(torch.full((50, 3), 0.1), rows(50, 2)))
    assert math.isnan(found.cka)
    assert math.isnan(found.debiased_cka)


def test_too_few_bad_and_nan_rows_are_refused() -> None:
    empty = PairedMoments(3, 2)
    with pytest.raises(ValueError, match="0 rows were seen"):
        linear_cka(empty)
    empty.update(torch.zeros(0, 3), torch.zeros(0, 2))
    empty.update(rows(1, 3), rows(1, 2))
    with pytest.raises(ValueError, match="1 rows were seen: debiased CKA needs at least 4"):
        linear_cka(empty)
    with pytest.raises(ValueError, match=r"\[4, 3\] and y is \[5, 2\]"):
        empty.update(rows(4, 3), rows(5, 2))
    with pytest.raises(NonFiniteError, match="y of shape"):
        empty.update(rows(1, 3), torch.tensor([[1.0, math.nan]]))
    with pytest.raises(ValueError, match="widths are 0 and 2"):
        PairedMoments(0, 2)
    with pytest.raises(ValueError, match=r"shifts have \[2, 2\] entries"):
        PairedMoments(3, 2, shift_x=torch.zeros(2))


def test_canonical_correlations_of_a_rotated_copy_are_one() -> None:
    x = rows(400, 8) * torch.arange(1, 9)
    both = moments(x, x @ rotation(8))
    assert svcca(both).mean_correlation == pytest.approx(1, abs=1e-9)
    assert list(pwcca(both)[:2]) == pytest.approx([1, 1], abs=1e-9)


def test_svcca_of_unrelated_rows_lies_at_its_floor() -> None:
    found = svcca(moments(rows(2000, 30, seed=1), rows(2000, 50, seed=2)), variance=1)
    # E[mean ρ²] = max(d) / (n - 1).
    assert found.mean_squared == pytest.approx(found.floor**2, rel=0.05)
    assert 0.85 * found.floor < found.mean_correlation < found.floor
    assert found.components == (30, 50)


def test_svcca_keeps_the_directions_that_hold_the_variance() -> None:
    # Two large shared directions and small noise of its own on each side.
    shared = rows(3000, 2, seed=1)
    x = torch.cat([shared, 0.01 * rows(3000, 5, seed=2)], 1)
    y = torch.cat([shared, 0.01 * rows(3000, 5, seed=3)], 1) @ rotation(7)
    found = svcca(moments(x, y))
    assert found.components == (2, 2)
    assert found.mean_correlation > 0.999
    # All directions: two of seven are shared; the weights know that they are the large ones.
    assert svcca(moments(x, y), variance=1).mean_correlation < 0.4
    assert pwcca(moments(x, y)).weighted_by_x > 0.8


def test_pwcca_of_two_columns_by_hand() -> None:
    # Columns x = (p, q), y = (p, s) with p, q, s orthogonal and centred: ρ = 1 and 0.
    p = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1]).double()
    q = torch.tensor([1.0, 1, -1, -1, 1, 1, -1, -1]).double()
    s = torch.tensor([1.0, 1, 1, 1, -1, -1, -1, -1]).double()
    found = pwcca(moments(torch.stack([p, 3 * q], 1), torch.stack([p, s], 1)))
    assert found.weighted_by_x == pytest.approx(1 / 4)
    assert found.weighted_by_y == pytest.approx(1 / 2)


def test_canonical_correlations_need_rows_and_variance() -> None:
    with pytest.raises(ValueError, match="need at least 11 rows"):
        svcca(moments(rows(10, 5, seed=1), rows(10, 5, seed=2)), variance=1)
    with pytest.raises(ValueError, match="rows of y are all alike"):
        pwcca(moments(rows(50, 3), torch.zeros(50, 2)))
    with pytest.raises(ValueError, match=r"variance is 1\.5"):
        svcca(moments(rows(50, 3), rows(50, 2)), variance=1.5)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    class Total:
        def __init__(self, total, count):
            self.total, self.count = total, count

        def merge(self, other):
            self.total, self.count = self.total + other.total, self.count + other.count

        def without(self, other):
            return Total(self.total - other.total, self.count - other.count)

    values = rows(12, 1).flatten().tolist()
    found = jackknife([Total(v, 1) for v in values], lambda sums: sums.total / sums.count)
    assert found.estimate == pytest.approx(np.mean(values))
    assert found.standard_error == pytest.approx(np.std(values, ddof=1) / math.sqrt(12))


def test_the_interval_of_cka_holds_what_more_rows_show() -> None:
    x = rows(4000, 5, seed=1)
    y = x + 2 * rows(4000, 5, seed=2)
    blocks = [moments(a, b) for a, b in zip(x[:1000].split(50), y[:1000].split(50), strict=True)]
    found = jackknife(blocks, lambda sums: linear_cka(sums).debiased_cka)
    assert found.low < linear_cka(moments(x, y)).debiased_cka < found.high
    assert found.estimate == pytest.approx(linear_cka(moments(x[:1000], y[:1000])).debiased_cka)
    with pytest.raises(ValueError, match="1 blocks"):
        jackknife(blocks[:1], lambda sums: linear_cka(sums).cka)
