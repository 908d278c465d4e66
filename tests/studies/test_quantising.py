"""Rounded weights: errors from theory, bits counted by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from bathyscope.errors import ConfigError, ModelError, NonFiniteError
from bathyscope.studies.prunable import prunable
from bathyscope.studies.quantising import Rounding, quantise, round_to_nearest
from study_models import gpt2


def uniform(rows: int, columns: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(rows, columns, generator=draw) * 2 - 1


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [8, 5, 4])
def test_uniform_weights_have_a_twelfth_of_a_step_squared(bits: int, symmetric: bool) -> None:
    weight = uniform(4, 100_000)
    rounding = Rounding(bits, symmetric=symmetric, block=None, scale_dtype=torch.float32)
    found = round_to_nearest(weight, rounding)
    step = 2 / (2**bits - 2) if symmetric else 2 / (2**bits - 1)
    assert found.squared_error / weight.numel() == pytest.approx(step**2 / 12, rel=0.02)


def test_two_bits_by_hand() -> None:
    weight = torch.tensor([[-1.0, -0.4, 0.4, 0.6, 2.0, 0.9]])
    # Steps of 2: -2, 0, 2.
    symmetric = round_to_nearest(weight, Rounding(2, symmetric=True, block=None))
    assert symmetric.values.tolist() == [[0, 0, 0, 0, 2, 0]]
    # From -1 in steps of 1: -1, 0, 1, 2.
    found = round_to_nearest(weight, Rounding(2, block=None))
    assert found.values.tolist() == [[-1, 0, 0, 1, 2, 1]]
    assert found.squared_error == pytest.approx(0.16 + 0.16 + 0.16 + 0.01)


def test_values_on_the_grid_stay() -> None:
    draw = torch.Generator().manual_seed(0)
    integers = torch.randint(-7, 8, (16, 64), generator=draw).float()
    integers[:, 0], integers[:, 1] = -7, 7
    weight = integers * 2**-6
    for symmetric in (True, False):
        # 15 levels from -7 to 7 are those of 4 bits in the symmetric scheme.
        bits = 4 if symmetric else 8
        scaled = weight if symmetric else (integers * 255 / 14 + 127.5).round() * 2**-8
        found = round_to_nearest(scaled, Rounding(bits, symmetric=symmetric))
        assert torch.equal(found.values, scaled)
        assert found.squared_error == 0


def test_eight_bits_are_nearly_exact_and_fewer_are_worse() -> None:
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    energy = float(weight.square().sum())
    errors = [round_to_nearest(weight, Rounding(b)).squared_error / energy for b in range(8, 1, -1)]
    assert errors[0] < 5e-5
    # A bit less is a step twice as long: four times the error.
    assert all(3 < b / a < 7 for a, b in itertools.pairwise(errors))


def test_smaller_blocks_have_smaller_errors() -> None:
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    errors = [round_to_nearest(weight, Rounding(4, block=b)).squared_error for b in (32, 64, None)]
    assert errors == sorted(errors)


@pytest.mark.parametrize(
    ("rounding", "bits"),
    [
        (Rounding(4), 3 * 130 * 4 + 3 * 3 * 32),
        (Rounding(4, symmetric=True), 3 * 130 * 4 + 3 * 3 * 16),
        (Rounding(3, block=None), 3 * 130 * 3 + 3 * 32),
        (Rounding(8, block=130, scale_dtype=torch.float32), 3 * 130 * 8 + 3 * 64),
    ],
)
def test_bits_are_counted_with_the_steps(rounding: Rounding, bits: int) -> None:
    assert round_to_nearest(uniform(3, 130), rounding).bits == bits


def test_blocks_do_not_reach_into_each_other() -> None:
    weight = torch.cat([uniform(2, 64) * 1e-3, uniform(2, 64) * 100, uniform(2, 5)], dim=1)
    found = round_to_nearest(weight, Rounding(8, scale_dtype=torch.float32)).values
    parts = [round_to_nearest(p, Rounding(8, scale_dtype=torch.float32)).values
             for p in weight.split([64, 64, 5], dim=1)]  # fmt: skip
    assert torch.equal(found, torch.cat(parts, dim=1))


def test_equal_values_and_zeros() -> None:
    for value in (0.0, 0.5):
        weight = torch.full((3, 70), value)
        assert torch.equal(round_to_nearest(weight, Rounding(4)).values, weight)
        # A seventh of 0.5 is rounded to float16.
        found = round_to_nearest(weight, Rounding(4, symmetric=True)).values
        torch.testing.assert_close(found, weight, rtol=2**-11, atol=0)


def test_a_model_is_rounded_in_place() -> None:
    model = gpt2()
    embedding = model.transformer.wte.weight.clone()
    weights = prunable(model).weights
    before = [w.read() for w in weights]
    done = quantise(weights, Rounding(8, block=16))
    assert done.bits_per_weight == 8 + 32 / 16
    error = sum(float((w.read() - b).square().sum()) for w, b in zip(weights, before, strict=True))
    assert done.mse == pytest.approx(error / done.entries)
    assert 0 < done.relative_error < 5e-5
    assert done.entries == prunable(model).counts.prunable
    assert torch.equal(model.transformer.wte.weight, embedding)


def test_what_is_refused() -> None:
    for bits in (1, 9):
        with pytest.raises(ConfigError, match=f"bits is {bits}; wanted 2 to 8"):
            Rounding(bits)
    with pytest.raises(ConfigError, match="block is 0 columns"):
        Rounding(4, block=0)
    with pytest.raises(NonFiniteError, match="holds NaN"):
        round_to_nearest(torch.full((2, 2), float("nan")), Rounding(4))
    with pytest.raises(NonFiniteError, match="Take scale_dtype float32"):
        round_to_nearest(uniform(2, 64) * 1e8, Rounding(4))
    weights = prunable(nn.Sequential(nn.Linear(64, 64))).weights
    quantise(weights, Rounding(4))
    with pytest.raises(ModelError, match="left out of quantisation: 100% of its prunable weights"):
        quantise(weights, Rounding(8))
