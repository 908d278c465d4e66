"""A forward that resumes at a block is the whole forward, in every family of decoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.errors import HookPointError
from bathyscope.models.capture import capture
from bathyscope.models.families import family_of
from bathyscope.models.resume import blocks_return_tuple, resumed
from double_decoders import DECODERS, make_model

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])


def returns_tuple(model: Any) -> bool:
    found: list[bool] = []
    with blocks_return_tuple(model, found):
        model(input_ids=IDS, use_cache=False)
    return found[0]


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("family", DECODERS)
def test_logits_are_those_of_the_whole_forward(family: str, layer: int) -> None:
    model = make_model(family)
    hidden = capture(model, [f"resid_pre.{layer}"], IDS)[f"resid_pre.{layer}"]
    computed: list[str] = []
    found = family_of(model.config)
    assert found is not None
    blocks = model.get_submodule(found.blocks)
    handles = [
        block.get_submodule(found.mlp).register_forward_pre_hook(lambda *_, n=n: computed.append(n))
        for n, block in blocks.named_children()
    ]
    with torch.no_grad():
        wanted = model(input_ids=IDS, use_cache=False).logits
        computed.clear()
        with resumed(model, layer, hidden, returns_tuple=returns_tuple(model)):
            computed.clear()
            logits = model(input_ids=IDS, use_cache=False).logits
    for handle in handles:
        handle.remove()
    assert torch.equal(logits, wanted)
    assert computed == [str(n) for n in range(layer, 3)]


def test_blocks_are_as_before_also_after_an_error() -> None:
    model = make_model("llama")
    hidden = capture(model, ["resid_pre.2"], IDS)["resid_pre.2"]
    wanted = model(input_ids=IDS).logits

    def fail(_: nn.Module, __: Any) -> None:
        raise RuntimeError("stop")

    handle = model.model.norm.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stop"), resumed(model, 2, hidden):
        model(input_ids=IDS)
    handle.remove()
    assert torch.equal(model(input_ids=IDS).logits, wanted)
    assert "forward" not in vars(model.model.layers[0])


def test_layers_that_are_not_there_are_refused() -> None:
    for model, layer in ((make_model("llama"), 3), (nn.Linear(2, 2), 0)):
        with pytest.raises(HookPointError, match="cannot resume"), resumed(model, layer, Tensor()):
            pass
