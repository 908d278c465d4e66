"""Heads stand where the table says, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from bathyscope.errors import HookPointError
from bathyscope.models.build import build_model
from bathyscope.models.capture import capture, observed
from bathyscope.models.heads import heads_of

LLAMA: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
}  # fmt: skip


def llama() -> Any:
    torch.manual_seed(0)
    return build_model(hf.LlamaConfig(**LLAMA), dtype=torch.float32, attention="eager").eval()


def test_query_heads_of_grouped_attention_each_have_their_columns() -> None:
    model = llama()
    heads = heads_of(model, 1)
    seen = capture(model, [heads.hook_point], {"input_ids": torch.arange(5)[None]})
    assert heads.count == 4
    assert seen[heads.hook_point.name].shape == (1, 5, 4 * 12)


def test_a_config_is_enough() -> None:
    heads = heads_of(hf.GPT2Config(n_layer=2, n_head=4, n_embd=32), 1)
    assert heads.hook_point.path == "transformer.h.1.attn.c_proj"
    assert (heads.hook_point.side, heads.count) == ("in", 4)


@pytest.mark.parametrize(
    ("config", "layer", "message"),
    [
        (hf.LlamaConfig(**LLAMA), 2, "asks for layer 2"),
        (hf.MambaConfig(num_hidden_layers=2), 0, "no attention"),
        (hf.T5Config(), 0, "'t5' are not known"),
    ],
)
def test_heads_that_are_not_there(config: Any, layer: int, message: str) -> None:
    with pytest.raises(HookPointError, match=message):
        heads_of(config, layer)


def test_an_observer_sees_and_changes_nothing() -> None:
    model, tokens = llama(), torch.arange(5)[None]
    wanted = model(tokens).logits
    point = heads_of(model, 0).hook_point
    seen: list[torch.Tensor] = []
    with observed(model, point, seen.append):
        assert torch.equal(model(tokens).logits, wanted)
    model(tokens)
    (only,) = seen
    assert torch.equal(only, capture(model, [point], tokens)[point.name])
