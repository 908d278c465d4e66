"""The end of a model read from its files alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bathyscope.models.head import read_head


@pytest.mark.parametrize(
    "family", ["llama_folder", "sharded_folder", "gpt2_folder", "neox_folder", "gemma_folder"]
)
def test_head_gives_the_models_logits(family: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(family)
    head = read_head(folder)
    assert head is not None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(head.unembedding, model.get_output_embeddings().weight.detach())
    norm = {
        "gpt2": "transformer.ln_f",
        "gpt_neox": "gpt_neox.final_layer_norm",
    }.get(model.config.model_type, "model.norm")
    weight = model.get_submodule(norm).weight.detach()
    gain = weight + 1 if model.config.model_type == "gemma2" else weight
    assert torch.equal(head.norm_gain, gain)
