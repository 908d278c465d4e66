"""The map between two models: found exactly where it is one, and shrunk where it is noise."""

from __future__ import annotations

import pytest
import torch

from bathyscope.errors import NonFiniteError
from bathyscope.studies.linear_maps import ridge_maps
from bathyscope.studies.paired_moments import PairedMoments
from bathyscope.studies.rotations import random_rotation


def sums(x: torch.Tensor, y: torch.Tensor) -> PairedMoments:
    found = PairedMoments(x.shape[1], y.shape[1])
    found.update(x, y)
    return found


def rows(n: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).double()


def test_a_rotation_is_recovered_both_ways() -> None:
    turn = random_rotation(12, seed=1).forward
    x = rows(400, 12) * torch.linspace(0.2, 3, 12)
    there, back = ridge_maps(sums(x, x @ turn + 5))
    torch.testing.assert_close(there.matrix, turn, atol=1e-5, rtol=0)
    torch.testing.assert_close(back.matrix, turn.T, atol=1e-5, rtol=0)
    assert there.fvu < 1e-10


def test_a_narrow_model_is_mapped_into_a_wide_one() -> None:
    matrix = rows(5, 9, seed=3)
    x = rows(300, 5)
    there, back = ridge_maps(sums(x, x @ matrix))
    torch.testing.assert_close(there.matrix, matrix, atol=1e-5, rtol=0)
    # Back and forth gives x again: y has all of it.
    torch.testing.assert_close(there.matrix @ back.matrix, torch.eye(5).double(), atol=1e-4, rtol=0)


def test_the_penalty_is_that_of_least_cross_validated_error() -> None:
    x, noise = rows(60, 20), rows(60, 4, seed=1)
    y = x[:, :4] + 2 * noise
    found = ridge_maps(sums(x, y))[0]
    centred, target = x - x.mean(0), y - y.mean(0)

    def score(penalty: float) -> float:
        hat = centred @ torch.linalg.solve(
            centred.T @ centred + penalty * torch.eye(20).double(), centred.T
        )
        left = (target - hat @ target).square().sum()
        return float(60 * left / (60 - 1 - hat.trace()) ** 2)

    grid = torch.logspace(-3, 5, 200).tolist()
    assert score(found.penalty) <= min(map(score, grid)) * 1.001
    assert found.fvu == pytest.approx(score(found.penalty) * 60 / float(target.square().sum()))


def test_shuffled_rows_are_shrunk_away() -> None:
    x = rows(500, 8)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    found = ridge_maps(sums(x, x[order]))[0]
    assert float(found.matrix.norm()) < 0.4
    assert found.fvu == pytest.approx(1, abs=0.05)


def test_fewer_rows_than_dimensions_still_give_a_map() -> None:
    x = rows(6, 20)
    found = ridge_maps(sums(x, x @ rows(20, 3, seed=2)))[0]
    assert bool(torch.isfinite(found.matrix).all())
    assert found.penalty > 0


def test_what_cannot_be_mapped_is_refused() -> None:
    x = rows(10, 4)
    with pytest.raises(ValueError, match="2 paired rows were seen"):
        ridge_maps(sums(x[:2], x[:2]))
    with pytest.raises(ValueError, match="one side are all alike"):
        ridge_maps(sums(x, torch.ones(10, 4)))
    with pytest.raises(NonFiniteError):
        sums(x * torch.nan, x)
