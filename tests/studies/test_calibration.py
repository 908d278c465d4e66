"""Sums over inputs are those of the products that a model computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bathyscope.errors import ModelError, NonFiniteError
from bathyscope.models.capture import run_forward
from bathyscope.studies.calibration import InputStatistics, gathered
from bathyscope.studies.prunable import prunable
from study_models import convolutions, gpt2, image_batches, llama, token_batches


def sums(
    model: nn.Module, batches: list[Any], *, hessian: bool = True, memory_bytes: int = 2**30
) -> dict[str, InputStatistics]:
    def forwards() -> None:
        for batch in batches:
            run_forward(model, batch)

    found = gathered(prunable(model).weights, forwards, hessian=hessian, memory_bytes=memory_bytes)
    return {weight.path: statistics for weight, statistics in found}


def seen_by(model: nn.Module, path: str, batches: list[Tensor]) -> Tensor:
    """Inputs of a module [n, in] by a hook."""
    rows: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(
        lambda _, args: rows.append(args[0].reshape(-1, args[0].shape[-1]))
    )
    for batch in batches:
        model(batch)
    handle.remove()
    return torch.cat(rows)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sums_over_tokens(family: str) -> None:
    model = llama() if family == "llama" else gpt2()
    path = "model.layers.1.mlp.down_proj" if family == "llama" else "transformer.h.1.attn.c_attn"
    batches = token_batches()
    found = sums(model, batches)[path]
    x = seen_by(model, path, batches)
    assert found.rows == len(x) == 3 * 2 * 12
    assert found.hessian is not None
    assert found.squares.dtype == torch.float64
    torch.testing.assert_close(found.squares[0], x.double().square().sum(0))
    torch.testing.assert_close(found.hessian[0], x.t() @ x)


@pytest.mark.parametrize("path", ["plain", "grouped", "depthwise", "pointwise", "head"])
def test_patches_make_the_convolutions_outputs(path: str) -> None:
    """Σ y² of each output is wᵀ H w with the H of its group, so H is that of the right patches."""
    model = convolutions()
    module: Any = getattr(model, path)
    bias, module.bias = module.bias, None
    outputs: list[Tensor] = []
    module.register_forward_hook(lambda _, __, y: outputs.append(y.transpose(0, 1).flatten(1)))
    batches = image_batches()
    found = sums(model, batches)[path]
    assert bias is not None
    assert found.hessian is not None
    y = torch.cat(outputs, dim=1)
    weight = next(w for w in prunable(model).weights if w.path == path)
    rows = weight.read().reshape(weight.groups, -1, weight.shape[1])
    energy = torch.einsum("gri,gij,grj->gr", rows, found.hessian, rows)
    torch.testing.assert_close(energy.flatten(), y.square().sum(1), rtol=1e-4, atol=1e-5)
    assert found.rows == y.shape[1]
    diagonal = found.hessian.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found.squares.float(), diagonal, rtol=1e-5, atol=1e-6)


def test_a_budget_changes_no_sum() -> None:
    model, batches = gpt2(), token_batches()
    free, tight = sums(model, batches), sums(model, batches, memory_bytes=1)
    assert list(free) == list(tight)
    for path, found in free.items():
        other = tight[path]
        assert found.hessian is not None
        assert other.hessian is not None
        assert torch.equal(found.hessian, other.hessian)


def test_one_group_of_weights_at_a_time() -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5)))
    calls = []

    def forwards() -> None:
        calls.append(1)
        model(torch.randn(3, 8))

    # Two Hessians of 8 x 8 float32 fit.
    found = gathered(prunable(model).weights, forwards, hessian=True, memory_bytes=2 * 256)
    assert len(list(found)) == 5
    assert len(calls) == 3


def test_a_shared_weight_sees_both_inputs() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    x = torch.randn(6, 4)
    found = sums(model, [x])["0"]
    assert found.rows == 12
    both = torch.cat([x, first(x).detach()])
    torch.testing.assert_close(found.squares[0], both.double().square().sum(0))


def test_bad_inputs_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    x = torch.randn(3, 4)
    x[1, 2] = float("nan")
    with pytest.raises(NonFiniteError, match="Inputs of '0' are NaN or infinite"):
        sums(model, [x])
    with pytest.raises(ModelError, match="No calibration batch reached the weight of '0'"):
        sums(model, [])


def test_nothing_is_watched_after_an_exception() -> None:
    model = nn.Sequential(nn.Linear(4, 4))

    def forwards() -> None:
        raise RuntimeError("in a forward")

    with pytest.raises(RuntimeError, match="in a forward"):
        list(gathered(prunable(model).weights, forwards, hessian=False))
    assert torch.overrides._get_current_function_mode() is None
    assert F.linear(torch.ones(1, 4), model[0].weight).shape == (1, 4)
