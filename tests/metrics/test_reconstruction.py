import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope.errors import NonFiniteError
from bathyscope.metrics import reconstruction
from bathyscope.metrics.reconstruction import Reconstruction, count_active


def measured(x, x_hat, num_active=None):
    metric = Reconstruction(x.shape[1])
    metric.update(x, x_hat, num_active=torch.zeros(len(x)) if num_active is None else num_active)
    return metric


def random_rows(num_rows, width=3, *, seed=0, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, width, generator=generator) + mean
    return x, x + 0.3 * torch.randn(num_rows, width, generator=generator)


def test_two_rows_worked_by_hand():
    # mean (2, 2); Σ‖x - mean‖² = (1 + 4) + (1 + 4) = 10; errors: 1 and 4.
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    x_hat = torch.tensor([[3.0, 3.0], [1.0, 2.0]])

    found = measured(x, x_hat, torch.tensor([2, 5])).results()

    assert found["num_rows"] == 2
    assert found["fvu"] == pytest.approx(5 / 10, rel=1e-15)
    assert found["mse"] == pytest.approx(5 / 4, rel=1e-15)
    assert found["l0"] == 3.5
    # x·x̂ = 21 and 1; norms 5, √18 and 1, √5.
    cosine = (21 / (5 * math.sqrt(18)) + 1 / math.sqrt(5)) / 2
    assert found["cosine"] == pytest.approx(cosine, rel=1e-15)
    assert found["norm_ratio"] == pytest.approx((math.sqrt(18) / 5 + math.sqrt(5)) / 2, rel=1e-15)
    assert found["relative_bias"] == pytest.approx((18 + 5) / (21 + 1), rel=1e-15)


def test_the_mean_is_of_all_rows_not_of_each_batch():
    # Each batch alone has no deviation; together Σ‖x - 0‖² = 2.
    metric = Reconstruction(1)
    for value in (1.0, -1.0):
        metric.update(torch.tensor([[value]]), torch.tensor([[0.0]]), num_active=torch.ones(1))

    assert metric.results()["fvu"] == 1.0


def test_predicting_the_mean_gives_one_and_an_offset_is_not_free():
    x, _ = random_rows(1001, mean=5.0)
    mean = x.double().mean(dim=0).expand_as(x)

    assert measured(x.double(), mean).results()["fvu"] == pytest.approx(1.0, rel=1e-12)
    # An offset of c in each of 3 columns adds n·3c² to the error.
    total = float((x.double() - mean).square().sum())
    offset = measured(x.double(), x.double() + 0.5).results()["fvu"]
    assert offset == pytest.approx(1001 * 3 * 0.25 / total, rel=1e-12)


def test_shrinking_by_half_shows_in_bias_and_norm_but_not_in_cosine():
    x, _ = random_rows(65)

    found = measured(x, 0.5 * x).results()

    assert found["relative_bias"] == pytest.approx(0.5, rel=1e-12)
    assert found["norm_ratio"] == pytest.approx(0.5, rel=1e-12)
    assert found["cosine"] == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("block", [1, 7, 1 << 22])
def test_a_mean_of_ten_thousand_deviations_does_not_cancel(monkeypatch, block):
    monkeypatch.setattr(reconstruction, "_BLOCK_ELEMENTS", block)
    x, x_hat = random_rows(999, mean=1e4)
    exact = x.double()
    wanted = (exact - x_hat.double()).square().sum() / (exact - exact.mean(dim=0)).square().sum()

    assert measured(x, x_hat).results()["fvu"] == pytest.approx(float(wanted), rel=1e-10)


def test_zero_rows_have_a_stated_cosine_and_leave_the_norm_ratio():
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    x_hat = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [3.0, 0.0]])

    found = measured(x, x_hat).results()

    assert found["cosine"] == (1 + 0 + 0 + 1) / 4
    assert found["norm_ratio"] == (0 + 3) / 2


def test_undefined_figures_are_nan():
    equal = torch.full((3, 2), 0.1)
    assert math.isnan(measured(equal, equal + 1).results()["fvu"])
    assert math.isnan(measured(torch.ones(1, 2), torch.ones(1, 2)).results()["fvu"])

    nothing = measured(torch.zeros(2, 2), torch.ones(2, 2)).results()
    assert math.isnan(nothing["norm_ratio"])
    assert math.isnan(nothing["relative_bias"])


def test_equal_rows_over_many_batches_still_have_no_deviation():
    metric = Reconstruction(2)
    for size in (3, 7, 11):
        rows = torch.full((size, 2), 0.1)
        metric.update(rows, rows + 1, num_active=torch.ones(size))

    assert math.isnan(metric.results()["fvu"])


def test_bfloat16_rows_are_taken_at_their_value():
    x, x_hat = (t.to(torch.bfloat16) for t in random_rows(33))

    assert measured(x, x_hat).results() == measured(x.double(), x_hat.double()).results()


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 67), max_size=4), mean=st.sampled_from([0.0, 100.0]))
def test_merged_parts_equal_the_whole(cuts, mean):
    x, x_hat = random_rows(67, mean=mean)
    active = torch.arange(67)
    merged = Reconstruction(3)
    edges = [0, *sorted(cuts), 67]
    for start, stop in itertools.pairwise(edges):
        merged.merge(measured(x[start:stop], x_hat[start:stop], active[start:stop]))

    assert merged.results() == pytest.approx(measured(x, x_hat, active).results(), rel=1e-11)


def test_json_gives_the_same_state_and_goes_on():
    x, x_hat = random_rows(10)
    metric = measured(x, x_hat)
    copy = Reconstruction.from_dict(json.loads(json.dumps(metric.to_dict())))
    assert copy.results() == metric.results()

    for each in (metric, copy):
        each.update(x + 1, x_hat, num_active=torch.ones(10))
    assert copy.results() == metric.results()


@pytest.mark.parametrize("name", ["x", "x_hat"])
def test_nan_is_refused_by_name_and_changes_nothing(name):
    x, x_hat = random_rows(5)
    metric = measured(x, x_hat)
    before = metric.to_dict()
    bad = {"x": x.clone(), "x_hat": x_hat.clone()}
    bad[name][4, 2] = float("nan")

    with pytest.raises(NonFiniteError, match=rf"^{name} of shape"):
        metric.update(**bad, num_active=torch.ones(5))

    assert metric.to_dict() == before


def test_empty_and_wrong_shapes_are_refused():
    metric = Reconstruction(2)
    metric.update(torch.zeros(0, 2), torch.zeros(0, 2), num_active=torch.zeros(0))
    with pytest.raises(ValueError, match="no rows were evaluated"):
        metric.results()
    with pytest.raises(ValueError, match="wanted both as"):
        metric.update(torch.zeros(1, 2), torch.zeros(1, 3), num_active=torch.zeros(1))
    with pytest.raises(ValueError, match="one count for each of 1 rows"):
        metric.update(torch.zeros(1, 2), torch.zeros(1, 2), num_active=torch.zeros(2))
    with pytest.raises(ValueError, match="cannot merge width 3 into width 2"):
        metric.merge(Reconstruction(3))
    with pytest.raises(ValueError, match="at least 1"):
        Reconstruction(0)


def test_l0_counts_what_is_not_zero():
    assert count_active(torch.tensor([[0.5, 0.0, 2.0], [0.0, 0.0, 0.0]])).tolist() == [2, 0]


def test_rows_with_gradient_are_taken():
    x = torch.ones(2, 2, requires_grad=True)
    assert measured(x, 2 * x).results()["mse"] == 1.0
