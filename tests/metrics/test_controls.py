import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope.errors import NonFiniteError
from bathyscope.metrics import controls
from bathyscope.metrics.controls import SecondMoments, deviation_scale
from bathyscope.metrics.reconstruction import Reconstruction


def moments(x):
    made = SecondMoments(x.shape[1])
    made.update(x)
    return made


def random_rows(num_rows, width=4, *, mean=0.0):
    generator = torch.Generator().manual_seed(num_rows)
    spread = torch.arange(1, width + 1).float()
    return torch.randn(num_rows, width, generator=generator) * spread + mean


def test_four_points_worked_by_hand():
    # Mean (1, 1); along (1, 1)/√2 the points lie at ±2√2, along (1, -1)/√2 at ±√2.
    x = torch.tensor([[3.0, 3.0], [-1.0, -1.0], [2.0, 0.0], [0.0, 2.0]])

    found = moments(x).fit(1)

    root = 0.5**0.5
    assert found.mean.tolist() == [1.0, 1.0]
    assert found.components[0].tolist() == pytest.approx([root, root], abs=1e-7)
    assert found.variances.tolist() == pytest.approx([16 / 4])
    assert found.total_variance == pytest.approx((16 + 4) / 4)
    wanted = [3, 3, -1, -1, 1, 1, 1, 1]
    assert found.reconstruct(x).flatten().tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_share_left_is_the_fvu():
    x = random_rows(301, mean=7.0)
    found = moments(x).fit(2)
    metric = Reconstruction(4)
    metric.update(x, found.reconstruct(x), num_active=torch.full((301,), 2))

    wanted = 1 - float(found.variances.sum()) / found.total_variance
    assert metric.results()["fvu"] == pytest.approx(wanted, rel=1e-5)


def test_all_components_give_the_rows_back():
    x = random_rows(50, mean=3.0)

    assert torch.allclose(moments(x).fit(4).reconstruct(x), x, atol=1e-5)


def test_signs_are_fixed_and_components_orthonormal():
    found = moments(random_rows(65)).fit(4).components

    largest = found.gather(1, found.abs().argmax(dim=1, keepdim=True))
    assert bool((largest > 0).all())
    assert torch.allclose(found @ found.T, torch.eye(4), atol=1e-6)


def test_fewer_rows_than_columns_leave_zero_variances():
    found = moments(random_rows(2)).fit(4)

    assert found.variances[0] > 0
    assert found.variances[1:].tolist() == pytest.approx([0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("block", [4, 28, 1 << 22])
def test_a_large_mean_does_not_cancel(monkeypatch, block):
    monkeypatch.setattr(controls, "_BLOCK_ELEMENTS", block)
    x = random_rows(500, mean=1e4)
    centred = x.double() - x.double().mean(dim=0)

    assert torch.allclose(moments(x).scatter, centred.T @ centred, rtol=1e-9, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 33), max_size=3))
def test_merged_parts_equal_the_whole(cuts):
    x, merged = random_rows(33, mean=50.0), SecondMoments(4)
    edges = [0, *sorted(cuts), 33]
    for start, stop in itertools.pairwise(edges):
        merged.merge(moments(x[start:stop]))
    whole = moments(x)

    assert merged.num_rows == 33
    assert torch.allclose(merged.mean, whole.mean, rtol=1e-13)
    assert torch.allclose(merged.scatter, whole.scatter, rtol=1e-10, atol=1e-9)


def test_json_gives_the_same_state():
    made = moments(random_rows(9))
    copy = SecondMoments.from_dict(json.loads(json.dumps(made.to_dict())))

    assert copy.num_rows == 9
    assert torch.equal(copy.mean, made.mean)
    assert torch.equal(copy.scatter, made.scatter)


def test_the_deviation_scale_by_hand_and_from_sums():
    # Columns (0, 2) and (5, 9): deviations 1, 1 and 2, 2; mean square (1 + 4) / 2.
    x = torch.tensor([[0.0, 5.0], [2.0, 9.0]])

    assert moments(x).deviation_scale() == pytest.approx(2.5**0.5)
    assert deviation_scale(2, x.sum(0), x.square().sum(0)) == pytest.approx(2.5**0.5)


def test_a_deviation_lost_to_rounding_is_refused():
    sums, square_sums = torch.tensor([3e8]), torch.tensor([3e16 * (1 - 1e-6)])

    with pytest.raises(ValueError, match="too large for plain sums"):
        deviation_scale(3, sums, square_sums)


def test_bad_input_is_refused():
    made = SecondMoments(2)
    with pytest.raises(NonFiniteError, match="x of shape"):
        made.update(torch.tensor([[1.0, float("inf")]]))
    with pytest.raises(ValueError, match=r"wanted \[rows, 2\]"):
        made.update(torch.zeros(3, 4))
    made.update(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="no rows were seen"):
        made.deviation_scale()
    made.update(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="1 rows were seen"):
        made.fit(1)
    with pytest.raises(ValueError, match="wanted 1 to 2"):
        made.fit(3)
    with pytest.raises(ValueError, match="cannot merge width 3"):
        made.merge(SecondMoments(3))
    with pytest.raises(ValueError, match="at least 1"):
        SecondMoments(0)
    with pytest.raises(ValueError, match="at least one row"):
        deviation_scale(0, torch.zeros(2), torch.zeros(2))
    with pytest.raises(NonFiniteError, match="square_sums"):
        deviation_scale(2, torch.zeros(1), torch.tensor([float("inf")]))
