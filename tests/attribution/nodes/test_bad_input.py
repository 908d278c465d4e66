"""What cannot work is refused with the reason, before the expensive part."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bathyscope.attribution.nodes import (
    Heads,
    Keys,
    Module,
    Pairs,
    Positions,
    atp_star,
    attribution_patching,
    contrast,
    exact_patching,
    integrated_gradients,
)
from bathyscope.attribution.nodes.forward import require_resident_map
from bathyscope.errors import ConfigError, HookPointError, ModelError, NonFiniteError
from bathyscope.models.load import load_model


def test_prompts_longer_than_the_context_are_refused(model_of: Callable[..., Any]) -> None:
    long = Pairs.of_tokens([[3] * 17], [[4] * 17])
    with pytest.raises(ConfigError, match="17 tokens and this model reads 16"):
        contrast(model_of("llama"), long, "kl", [])


def test_a_model_that_is_not_finite_is_named(model_of: Callable[..., Any], pairs: Pairs) -> None:
    model = copy.deepcopy(model_of("llama"))
    model.model.layers[1].mlp.down_proj.weight.data[3, 5] = float("nan")
    with pytest.raises(NonFiniteError, match=r"mlp_out.1 on the clean prompts holds"):
        contrast(model, pairs, "logit_difference", [Module(place="mlp_out.1")])
    with pytest.raises(NonFiniteError, match="The metric on the clean prompts"):
        contrast(model, pairs, "logit_difference", [])


def test_offloaded_weights_are_refused_where_gradients_are_needed(
    tiny_model: Path, tmp_path: Path
) -> None:
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu",
              "lm_head": "cpu"}  # fmt: skip
    device_map = places | {f"model.layers.{n}": "disk" if n == 2 else "cpu" for n in range(4)}
    with pytest.raises(ModelError, match=r"keeps model.layers.2.* on cpu, disk|on .*disk"):
        require_resident_map(device_map)
    require_resident_map({"*": "cpu"})
    require_resident_map({"a": 0, "b": 1})
    loaded = load_model(
        tiny_model, dtype=torch.float32, device_map=device_map, offload_folder=tmp_path
    )
    pairs = Pairs.of_tokens([[3, 4]], [[3, 5]], answers=[6], wrong=[7])
    problem = contrast(loaded.model, pairs, "logit_difference", [Module(place="mlp_out.1")])
    plain = load_model(tiny_model, dtype=torch.float32)
    wanted = contrast(plain.model, pairs, "logit_difference", [Module(place="mlp_out.1")])
    torch.testing.assert_close(exact_patching(problem).flat(), exact_patching(wanted).flat())
    with pytest.raises(ModelError, match=r"weights are offloaded.*exact patching"):
        attribution_patching(problem)


def test_places_that_do_not_exist_are_refused(model_of: Callable[..., Any], pairs: Pairs) -> None:
    model = model_of("llama")
    cases = {
        "mlp_out.7": Module(place="mlp_out.7"), "layer 9": Heads(layer=9),
        "keys.3": Keys(layer=3), "mlp_uot.1": Module(place="mlp_uot.1"),
    }  # fmt: skip
    for name, node_set in cases.items():
        with pytest.raises(HookPointError, match=name):
            contrast(model, pairs, "kl", [node_set])
    with pytest.raises(HookPointError, match="read but not patched"):
        contrast(model, pairs, "kl", [Positions(place="resid_mid.1")])
    with pytest.raises(HookPointError, match="has no attention, so it has no heads"):
        contrast(model_of_mamba(), pairs, "kl", [Heads(layer=0)])


def model_of_mamba() -> Any:
    import transformers as hf

    config = hf.MambaConfig(hidden_size=16, num_hidden_layers=1, state_size=4, vocab_size=64)
    return hf.AutoModelForCausalLM.from_config(config).eval()


def test_a_metric_that_does_not_depend_on_the_nodes_is_refused(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    problem = contrast(
        model_of("llama"), pairs, lambda logits: logits.detach()[:, -1, 0],
        [Module(place="mlp_out.1")],
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"does not depend on mlp_out\.1"):
        attribution_patching(problem)


def test_too_few_steps_are_refused(model_of: Callable[..., Any], pairs: Pairs) -> None:
    problem = contrast(model_of("llama"), pairs, "kl", [Module(place="mlp_out.1")])
    with pytest.raises(ConfigError, match="steps is 0"):
        integrated_gradients(problem, steps=0)
    with pytest.raises(ConfigError, match=r"AtP\*.*every score would be 0"):
        atp_star(problem)
    assert len(integrated_gradients(problem, steps=2).flat()) == 3


def test_hooks_are_gone_and_weights_ask_for_gradients_again(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    model = copy.deepcopy(model_of("llama"))
    assert isinstance(pairs.clean, dict)
    before = model(**pairs.clean).logits
    sets = [Heads(layer=1), Keys(layer=0)]
    problem = contrast(model, pairs, "logit_difference", sets)
    atp_star(problem)
    exact_patching(problem)
    assert torch.equal(model(**pairs.clean).logits, before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
