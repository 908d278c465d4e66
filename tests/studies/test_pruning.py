"""Pruned matrices against answers worked by hand and against each other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bathyscope.errors import ConfigError, ModelError
from bathyscope.studies.calibration import InputStatistics
from bathyscope.studies.prunable import prunable
from bathyscope.studies.pruning import (
    count_of,
    lowest,
    magnitude,
    magnitude_global,
    sparsegpt,
    wanda,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def statistics_of(x: Tensor) -> InputStatistics:
    """Of inputs [n, in] or [groups, n, in]."""
    grouped = x if x.dim() == 3 else x[None]
    hessian = grouped.transpose(1, 2) @ grouped
    return InputStatistics(grouped.shape[1], grouped.double().square().sum(1), hessian)


def correlated(rows: int, columns: int) -> Tensor:
    """Inputs whose columns differ in size, in no order, and hang together."""
    mixed = normal(rows, columns) @ normal(columns, columns, seed=1) / columns**0.5
    sizes = 10 ** (normal(columns, seed=4) / 4)
    return (normal(rows, columns, seed=2) * 0.3 + mixed) * sizes


def test_a_share_is_taken_as_it_is_written() -> None:
    # In binary 0.29 * 100 is 28.999999999999996.
    assert [count_of(s, 100) for s in (0.0, 0.29, 0.57, 0.999, 1.0)] == [0, 29, 57, 99, 100]
    assert count_of(0.5, 7) == 3
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="wanted 0 to 1"):
            count_of(wrong, 10)


def test_lowest_takes_the_first_of_equals() -> None:
    scores = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    expected = [[False, True, True, False, True], [True, True, True, False, False]]
    assert lowest(scores, 3).tolist() == expected
    assert not lowest(scores, 0).any()
    assert lowest(scores, 5).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(7, 13), (5, 131), (1, 1)])
def test_exactly_as_many_zeros_as_asked(shape: tuple[int, int], share: float) -> None:
    weight, statistics = normal(*shape), statistics_of(normal(300, shape[1], seed=3))
    whole = count_of(share, weight.numel())
    assert int((magnitude(weight, share) == 0).sum()) == whole
    assert int((sparsegpt(weight, statistics, share) == 0).sum()) == whole
    per_row = (wanda(weight, statistics, share) == 0).sum(1)
    assert per_row.tolist() == [count_of(share, shape[1])] * shape[0]
    if share == 0:
        assert torch.equal(sparsegpt(weight, statistics, share), weight)


def test_magnitude_and_wanda_by_hand() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, -4.0], [0.5, 5.0, -6.0, 7.0]])
    assert magnitude(weight, 0.5).tolist() == [[0, 0, 0, -4.0], [0, 5.0, -6.0, 7.0]]
    # Norms 10, 1, 1, 1: the first column counts tenfold.
    statistics = statistics_of(torch.diag(torch.tensor([10.0, 1.0, 1.0, 1.0])))
    assert wanda(weight, statistics, 0.5).tolist() == [[1.0, 0, 0, -4.0], [0, 0, -6.0, 7.0]]


@pytest.mark.parametrize("columns", [12, 300])
def test_with_independent_inputs_sparsegpt_is_wanda(columns: int) -> None:
    """With a diagonal H nothing is passed on, and W²/[H⁻¹]_jj is (|W| ‖X‖)²."""
    statistics = statistics_of(torch.diag(torch.logspace(-0.2, 0.2, columns).double()))
    for row in normal(6, columns):
        chosen = wanda(row[None], statistics, 0.5)
        found = sparsegpt(row[None], statistics, 0.5, dampening=1e-9, block_columns=columns)
        assert torch.equal(found, chosen)
        by_norm = row * statistics.squares[0].sqrt()
        assert torch.equal(magnitude(by_norm[None], 0.5) == 0, chosen == 0)


def test_two_correlated_columns_by_hand() -> None:
    """H = [[2, 1], [1, 1]], w = (1, 3): H⁻¹ = [[1, -1], [-1, 2]].

    The scores are 1²/1 for the first column and 3²/(1/H_22) = 9 for the second, once the first is
    settled. The first goes, and the second becomes 3 - 1/1 · (-1) = 4, the least-squares answer:
    H_21 w_1 / H_22 = 1 is taken up.
    """
    statistics = InputStatistics(1, torch.tensor([[2.0, 1.0]]).double(), None)
    statistics.hessian = torch.tensor([[[2.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
    found = sparsegpt(torch.tensor([[1.0, 3.0]]).double(), statistics, 0.5, dampening=0.0)
    torch.testing.assert_close(found, torch.tensor([[0.0, 4.0]]).double())
    # The second column has nothing to its right: it goes without a trace.
    found = sparsegpt(torch.tensor([[3.0, 1.0]]).double(), statistics, 0.5, dampening=0.0)
    torch.testing.assert_close(found, torch.tensor([[3.0, 0.0]]).double())


@pytest.mark.parametrize("block_columns", [4, 16, 64])
def test_what_is_kept_is_least_squares(block_columns: int) -> None:
    """Whatever the blocks: pruning one column on the left leaves the best of the others."""
    x = correlated(500, 16)
    weight = normal(1, 16)
    weight[0, 0] = 1e-9
    found = sparsegpt(weight, statistics_of(x), 1 / 16, dampening=0.0, block_columns=16)
    best = torch.linalg.lstsq(x[:, 1:], x @ weight[0]).solution
    torch.testing.assert_close(found[0, 1:], best, rtol=1e-6, atol=1e-9)
    # Columns in blocks are updated as they are in one.
    matrix = normal(8, 16)
    blocks = sparsegpt(matrix, statistics_of(x), 1.0, block_columns=block_columns)
    assert not blocks.any()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_errors_of_outputs_are_in_the_papers_order(share: float) -> None:
    x, weight = correlated(2000, 160), normal(64, 160)
    statistics = statistics_of(x)

    def error(pruned: Tensor) -> float:
        return float((x @ (pruned - weight).t()).square().mean())

    by_inputs = error(sparsegpt(weight, statistics, share))
    assert by_inputs < error(wanda(weight, statistics, share)) < error(magnitude(weight, share))


def test_an_idle_column_goes_first() -> None:
    x = correlated(200, 8)
    x[:, 5] = 0
    weight = normal(4, 8)
    weight[:, 5] = 100
    found = sparsegpt(weight, statistics_of(x), 4 / 32)
    assert found[:, 5].tolist() == [0] * 4
    assert torch.equal(found[:, :5], weight[:, :5])


def test_zeros_that_are_there_count() -> None:
    """Also beside entries that cost as little, because their input is always 0."""
    x = correlated(200, 8)
    x[:, 1] = 0
    weight = normal(4, 8)
    weight[:, 6] = 0
    statistics = statistics_of(x)
    for pruned in (wanda(weight, statistics, 1 / 8), sparsegpt(weight, statistics, 1 / 8)):
        assert torch.equal(pruned, weight)


def test_a_convolution_is_a_linear_map_of_patches() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(4, 6, 7, 7, generator=draw)
    weight = torch.randn(10, 6, 3, 3, generator=draw)
    patches = F.unfold(images, 3).transpose(1, 2).reshape(-1, 54)
    pruned = sparsegpt(weight.flatten(1), statistics_of(patches), 0.5)
    by_conv = F.conv2d(images, pruned.view_as(weight)).permute(0, 2, 3, 1).reshape(-1, 10)
    torch.testing.assert_close(by_conv, patches @ pruned.t(), rtol=1e-4, atol=1e-4)


def test_groups_are_pruned_with_their_own_inputs() -> None:
    """Each group of a grouped map is the same as a matrix of its own."""
    x = torch.stack([correlated(300, 8), correlated(300, 8).flip(1)])
    weight = normal(6, 8)
    both = wanda(weight, statistics_of(x), 0.5)
    apart = [wanda(weight[3 * g : 3 * g + 3], statistics_of(x[g]), 0.5) for g in (0, 1)]
    assert torch.equal(both, torch.cat(apart))
    updated = sparsegpt(weight, statistics_of(x), 1.0)
    assert not updated.any()
    one = sparsegpt(weight[:3], statistics_of(x[0]), 0.5)
    twice = sparsegpt(weight[:3].repeat(2, 1), statistics_of(x[:1].repeat(2, 1, 1)), 0.5)
    torch.testing.assert_close(twice, one.repeat(2, 1))


def test_a_singular_hessian_is_damped() -> None:
    """Fewer inputs than columns: not positive definite without dampening."""
    found = sparsegpt(normal(4, 32).float(), statistics_of(normal(5, 32).float()), 0.5)
    assert torch.isfinite(found).all()
    assert int((found == 0).sum()) == 64
    with pytest.raises(ModelError, match="not positive definite"):
        sparsegpt(normal(4, 32), statistics_of(normal(5, 32)), 0.5, dampening=0.0)


def test_one_threshold_for_all_weights() -> None:
    model = nn.Sequential(nn.Linear(7, 9), nn.Linear(9, 5))
    weights = prunable(model).weights
    everything = torch.cat([w.read().flatten() for w in weights]).abs()
    for share in (0.0, 0.3, 1.0):
        kept = torch.cat([mask.flatten() for mask in magnitude_global(weights, share)])
        assert torch.equal(~kept, lowest(everything, count_of(share, 108)))
    weights[1].write(torch.full((5, 9), 1e-3))
    kept = magnitude_global(weights, 0.41)[1]
    # All are equal: the last one is left.
    assert kept.flatten().tolist() == [False] * 44 + [True]
