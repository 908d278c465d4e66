"""Dropped blocks hand on what they receive, in every family, and come back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.errors import HookPointError
from bathyscope.models.capture import capture
from bathyscope.models.families import family_of
from bathyscope.studies.layers import drop_blocks, drop_layers
from double_decoders import DECODERS, make_model
from study_models import convolutions, gpt2, image_batches, llama, token_batches


@pytest.mark.parametrize("family", DECODERS)
def test_a_dropped_block_passes_its_input_on(family: str) -> None:
    model, batch = make_model(family), token_batches(1)[0]
    inputs = {"input_ids": batch, "use_cache": False}
    before = model(**inputs).logits
    names = ["resid_pre.1", "resid_post.1", "resid_post.2"]
    for blocks, held in (([1], ("resid_pre.1", "resid_post.1")), ([0, 2], None)):
        with drop_blocks(model, blocks):
            # The second forward does not run the block.
            first, second = (model(**inputs).logits for _ in range(2))
            seen = capture(model, names, inputs)
        assert torch.equal(first, second)
        assert not torch.allclose(first, before)
        pair = held or ("resid_post.1", "resid_post.2")
        assert torch.equal(seen[pair[0]], seen[pair[1]])
    assert torch.equal(model(**inputs).logits, before)
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dropping_a_block_that_adds_zero_changes_nothing(family: str) -> None:
    model: Any = llama() if family == "llama" else gpt2()
    found = family_of(model.config)
    assert found is not None
    block = model.get_submodule(f"{found.blocks}.1")
    last = ("o_proj", "down_proj") if family == "llama" else ("c_proj",)
    for path, module in block.named_modules():
        if path.endswith(last):
            for parameter in module.parameters():
                parameter.zero_()
    batch = token_batches(1)[0]
    before = model(batch).logits
    with drop_layers(model, 1, 1):
        assert torch.equal(model(batch).logits, before)
        assert torch.equal(model(batch).logits, before)


def test_dropping_all_blocks_leaves_the_ends() -> None:
    model, batch = llama(), token_batches(1)[0]
    with drop_layers(model, 0, 3):
        logits = model(batch).logits
    ends = model.lm_head(model.model.norm(model.model.embed_tokens(batch)))
    assert torch.equal(logits, ends)


def test_words_are_generated_with_a_cache() -> None:
    """A dropped first block still fills its cache, whose length places the next token."""
    model, batch = gpt2(), token_batches(1)[0]
    with drop_layers(model, 0, 1):
        wanted = model(batch).logits
        first = model(batch[:, :8], use_cache=True)
        rest = model(batch[:, 8:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(rest.logits, wanted[:, 8:], rtol=1e-4, atol=1e-5)


class Pairs(nn.Module):
    """Blocks that return tuples."""

    class Block(nn.Module):
        def forward(self, hidden_states: Tensor, scale: float) -> tuple[Tensor, float]:
            return hidden_states * scale, scale + 1

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Pairs.Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scale = 2.0
        for block in self.blocks:
            x, scale = block(hidden_states=x, scale=scale)
        return x


def test_tuples_keep_their_other_elements() -> None:
    model, x = Pairs(), torch.ones(2)
    assert model(x).tolist() == [24.0, 24.0]
    with drop_blocks(model, ["blocks.1"]):
        for _ in range(2):
            assert model(x).tolist() == [8.0, 8.0]
        # One inside another, and a block named twice.
        with drop_blocks(model, ["blocks.0", "blocks.1", "blocks.1"]):
            assert model(x).tolist() == [4.0, 4.0]
        assert model(x).tolist() == [8.0, 8.0]
    assert model(x).tolist() == [24.0, 24.0]


def test_restored_after_an_exception() -> None:
    model, x = Pairs(), torch.ones(2)
    with pytest.raises(RuntimeError, match="inside"), drop_blocks(model, ["blocks.0"]):
        raise RuntimeError("inside")
    assert model(x).tolist() == [24.0, 24.0]


def test_what_is_refused() -> None:
    model = llama()
    with (
        pytest.raises(HookPointError, match="the model holds blocks 0 to 2"),
        drop_layers(model, 1, 3),
    ):
        pass
    assert not any("forward" in module.__dict__ for module in model.modules())
    cnn = convolutions()
    with pytest.raises(HookPointError, match="Give module paths"), drop_blocks(cnn, [0]):
        pass
    refused = r"receives \[3, 3, 9, 9\] and returns \[3, 8, 5, 5\]"
    with drop_blocks(cnn, ["plain"]), pytest.raises(HookPointError, match=refused):
        cnn(image_batches()[0])
