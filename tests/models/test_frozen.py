"""Frozen forwards keep values, leave the model as it was, and refuse what cannot be taken apart."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.errors import ModelError
from bathyscope.models.frozen import frozen, frozen_norm, is_norm, pinned
from decoders import DECODERS, decoder

TOKENS = torch.tensor([[5, 17, 90, 17, 33], [8, 2, 11, 64, 9]])
RANDOM = torch.Generator().manual_seed(0)


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("family", sorted(DECODERS))
def test_values_stay_and_the_model_is_left_as_it_was(family: str) -> None:
    model = decoder(family)
    hooks, attention = hooks_of(model), model.config._attn_implementation
    with torch.no_grad():
        plain = model(input_ids=TOKENS).logits
    with frozen(model):
        held = model(input_ids=TOKENS).logits
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-5)
    assert (hooks_of(model), model.config._attn_implementation) == (hooks, attention)


@pytest.mark.parametrize("family", sorted(DECODERS))
def test_the_first_row_of_a_pinned_batch_is_as_always(family: str) -> None:
    model = decoder(family)
    with torch.no_grad():
        plain = model(input_ids=TOKENS).logits
        with pinned(model):
            held = model(input_ids=TOKENS).logits
    torch.testing.assert_close(held[0], plain[0], rtol=0, atol=1e-5)
    assert not torch.allclose(held[1], plain[1], atol=1e-3)


def test_an_error_inside_leaves_the_model_as_it_was() -> None:
    model = decoder("llama")
    hooks, attention = hooks_of(model), model.config._attn_implementation
    with pytest.raises(RuntimeError, match="mine"), frozen(model):
        raise RuntimeError("mine")
    assert (hooks_of(model), model.config._attn_implementation) == (hooks, attention)


@pytest.mark.parametrize("centred", [True, False])
def test_the_gradient_of_a_frozen_norm_by_hand(centred: bool) -> None:
    """diag(gain) (I - mean) / scale, and no gradient through the scale."""
    norm: Any = nn.LayerNorm(4) if centred else nn.RMSNorm(4, eps=1e-6)
    gain = torch.tensor([1.0, 2.0, -1.0, 0.5])
    with torch.no_grad():
        norm.weight.copy_(gain)
    x = torch.tensor([[1.0, -2.0, 3.0, 6.0]], requires_grad=True)
    y = frozen_norm(norm, x, norm(x))
    torch.testing.assert_close(y, norm(x))
    (gradient,) = torch.autograd.grad(y[0, 1], x)
    if centred:
        # mean 2, deviations -1, -4, 1, 4: variance 34 / 4.
        wanted = 2 * torch.tensor([-0.25, 0.75, -0.25, -0.25]) / (34 / 4) ** 0.5
    else:
        wanted = torch.tensor([0.0, 2.0, 0.0, 0.0]) / (50 / 4) ** 0.5
    torch.testing.assert_close(gradient[0], wanted, rtol=1e-5, atol=1e-6)


class OddRMSNorm(nn.Module):
    """Divides by the largest: none of the known."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.abs().amax(-1, keepdim=True)


def test_an_unknown_norm_is_refused_by_its_path() -> None:
    inner = nn.ModuleDict(
        {"attn": nn.ModuleDict({"q_proj": nn.Linear(4, 4)}), "norm": OddRMSNorm()}
    )
    assert is_norm(inner["norm"])
    x = torch.randn(1, 4, generator=RANDOM)
    with pytest.raises(ModelError, match=r"norm 'norm' \(OddRMSNorm\)"), frozen(inner):
        inner["norm"](x)


def test_attention_that_cannot_be_taken_apart_is_refused() -> None:
    with pytest.raises(ModelError, match=re.escape("q_proj and k_proj")), frozen(nn.Linear(2, 2)):
        pass
