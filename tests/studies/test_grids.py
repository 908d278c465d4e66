"""Weights of a dequantised file are told from weights as they were trained."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bathyscope.studies.grids import distinct_share, grid_reason, on_grid
from bathyscope.studies.prunable import prunable
from bathyscope.studies.quantising import Rounding, round_to_nearest


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("bits", "block", "symmetric"), [(4, 32, False), (4, 64, True), (5, 32, False), (2, None, True)]
)
def test_a_rounded_matrix_is_on_a_grid(bits: int, block: int | None, symmetric: bool) -> None:
    rounding = Rounding(bits, symmetric=symmetric, block=block)
    assert on_grid(round_to_nearest(normal(64, 256), rounding).values)


def test_trained_weights_are_on_no_grid() -> None:
    weight = normal(64, 256)
    assert distinct_share(weight) > 0.999
    assert not on_grid(weight)
    assert distinct_share(weight.bfloat16()) > 0.95
    assert not on_grid(weight.bfloat16())
    assert not on_grid(normal(24, 9))


def test_zeros_make_no_grid() -> None:
    pruned = normal(64, 256)
    pruned[pruned.abs() < 0.67] = 0
    assert not on_grid(pruned)
    assert math.isnan(distinct_share(torch.zeros(4, 64)))
    assert not on_grid(torch.zeros(4, 64))


def test_a_model_is_left_out_when_enough_of_it_is_on_a_grid() -> None:
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 192, bias=False))
    weights = prunable(model).weights
    assert grid_reason(weights) is None
    weights[0].write(round_to_nearest(weights[0].read(), Rounding(4, block=32)).values)
    reason = grid_reason(weights)
    assert reason is not None
    assert "25% of its prunable weights" in reason
    assert "1 of 2 matrices, for instance 0" in reason
    assert grid_reason(weights, most=0.3) is None
