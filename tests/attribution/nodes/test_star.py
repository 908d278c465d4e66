"""AtP*: exact where all after attention is linear, and gradients without one layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.attribution.nodes import (
    Heads,
    Keys,
    Module,
    Pairs,
    Positions,
    Queries,
    atp_star,
    attribution_patching,
    contrast,
    every_layer,
    exact_patching,
)
from bathyscope.attribution.nodes.bound import DenseNodes
from bathyscope.errors import HookPointError
from bathyscope.models.families import family_of
from bathyscope.models.splice import spliced
from double_decoders import CONFIGS, DECODERS

# GPT-J computes its attention by itself.
CORRECTED = tuple(name for name in DECODERS if name != "gptj")


class Nothing(nn.Module):
    """Adds nothing, whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def linear_after_attention(model: Any) -> Any:
    """The model's first two blocks, without what follows the second one's attention."""
    model = copy.deepcopy(model)
    family = family_of(model.config)
    assert family is not None
    blocks = model.get_submodule(family.blocks)
    parent, _, name = family.blocks.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList(blocks[:2]))
    last = blocks[1]
    setattr(last, family.mlp, Nothing())
    for path in ("post_attention_layernorm", "post_feedforward_layernorm"):
        if (
            "gemma" in model.config.model_type
            and family.attention_out == "post_attention_layernorm"
        ):
            setattr(last, path, nn.Identity())
    assert family.final_norm is not None
    holder, _, name = family.final_norm.rpartition(".")
    setattr(model.get_submodule(holder), name, nn.Identity())
    if hasattr(model.config, "final_logit_softcapping"):
        model.config.final_logit_softcapping = None
    model.config.num_hidden_layers = 2
    return model


@pytest.mark.parametrize("family", CORRECTED)
def test_corrected_queries_and_keys_are_exact_where_what_follows_is_linear(
    family: str, model_of: Callable[..., Any], pairs: Pairs
) -> None:
    model = linear_after_attention(model_of(family))
    problem = contrast(model, pairs, "logit_difference", [Queries(layer=1), Keys(layer=1)])
    exact = exact_patching(problem).flat()
    corrected = atp_star(problem, grad_drop=False)
    scale = float(exact.abs().max())
    torch.testing.assert_close(corrected.flat(), exact, rtol=1e-4, atol=1e-5 * scale)
    plain = attribution_patching(problem).flat()
    assert float((plain - exact).abs().max()) > 1e-3 * scale
    # One layer before it can be left out, which changes nothing here.
    magnitudes = atp_star(problem)
    assert not magnitudes.signed
    torch.testing.assert_close(magnitudes.flat(), exact.abs(), rtol=1e-4, atol=1e-5 * scale)


def test_a_key_node_is_a_key_head_and_moves_its_query_heads(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    problem = contrast(model_of("llama"), pairs, "logit_difference", [Keys(layer=1)])
    assert problem.nodes[0].table.index.unique().tolist() == [0, 1]
    config = CONFIGS["llama"]()
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox", "gptj"])
def test_gradients_without_a_layer_are_those_of_a_model_where_it_is_constant(
    family: str, model_of: Callable[..., Any], pairs: Pairs
) -> None:
    model = model_of(family)
    sets = [Positions(place="resid_pre.1"), Heads(layer=1), Module(place="mlp_out.0")]
    problem = contrast(model, pairs, "logit_difference", sets)
    wanted = [torch.zeros_like(v) for v in attribution_patching(problem).values]
    for layer in range(3):
        with (
            spliced(model, f"attn_out.{layer}", Tensor.detach),
            spliced(model, f"mlp_out.{layer}", Tensor.detach),
        ):
            for total, value in zip(wanted, cut_scores(problem, layer), strict=True):
                total += value.abs()
    # The stream has three drops, a node in a layer has the two others.
    means = [total / count for total, count in zip(wanted, (3, 2, 2), strict=True)]
    for found, mean in zip(atp_star(problem, correct=False).values, means, strict=True):
        torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-9)


def cut_scores(problem: Any, layer: int) -> list[Tensor]:
    """AtP in a model where a layer is cut; nodes inside of the layer get nothing."""
    own = [n for n in problem.nodes if n.place.layer == layer and "resid" not in n.place.name]
    others = [n for n in problem.nodes if n not in own]
    kept = problem.nodes[:]
    problem.nodes[:] = others
    found = iter(attribution_patching(problem).values)
    problem.nodes[:] = kept
    return [torch.zeros(len(n.table)) if n in own else next(found) for n in kept]


def test_cancelling_effects_are_found_by_dropped_gradients(
    model_of: Callable[..., Any],
) -> None:
    """Layer 1 takes back all that a node gives directly: AtP is 0, and GradDrop is not."""
    model = copy.deepcopy(model_of("llama"))
    model.model.norm = nn.Identity()
    for block in model.model.layers:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()

    class TakeBack(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -x

    model.model.layers[1].post_attention_layernorm = nn.Identity()
    model.model.layers[1].mlp = TakeBack()
    pairs = Pairs.of_tokens([[3, 4]], [[3, 5]], answers=[6], wrong=[7])
    problem = contrast(model, pairs, "logit_difference", [Positions(place="resid_pre.0")])
    plain, star = attribution_patching(problem).flat(), atp_star(problem).flat()
    assert float(plain.abs().max()) < 1e-9
    assert float(star.abs().max()) > 1e-3


def test_one_layer_has_nothing_to_drop(model_of: Callable[..., Any], pairs: Pairs) -> None:
    model = copy.deepcopy(model_of("llama"))
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    problem = contrast(model, pairs, "logit_difference", [Heads(layer=0)])
    torch.testing.assert_close(atp_star(problem).flat(), attribution_patching(problem).flat().abs())


def test_no_nodes_give_no_scores(model_of: Callable[..., Any], pairs: Pairs) -> None:
    problem = contrast(model_of("llama"), pairs, "logit_difference", [])
    for method in (atp_star, attribution_patching, exact_patching):
        assert method(problem).values == []
        assert method(problem).top(3) == []


def test_one_node(model_of: Callable[..., Any]) -> None:
    one = Pairs.of_tokens([[5]], [[6]], answers=[7], wrong=[8])
    problem = contrast(model_of("gpt2"), one, "logit_difference", [Module(place="resid_post.1")])
    assert problem.num_nodes == 1
    effect = float(exact_patching(problem).flat())
    moved = float(problem.corrupted_metric - problem.clean_metric)
    assert effect == pytest.approx(moved, rel=1e-6)
    (node,) = exact_patching(problem).top(5)
    assert (node.kind, node.place, node.pair, node.position) == ("module", "resid_post.1", 0, -1)


def test_families_without_transformers_attention_say_so(
    model_of: Callable[..., Any], pairs: Pairs
) -> None:
    model = model_of("gptj")
    with pytest.raises(HookPointError, match="Use heads, or attn_out"):
        contrast(model, pairs, "logit_difference", [Queries(layer=0)])
    problem = contrast(model, pairs, "logit_difference", every_layer(model, "heads", "mlps"))
    assert len(atp_star(problem).flat()) == 3 * 3 * 5


def test_every_kind_is_found_in_all_layers(model_of: Callable[..., Any], pairs: Pairs) -> None:
    model = model_of("llama")
    kinds = ("heads", "queries", "keys", "values", "mlps", "attentions")
    problem = contrast(model, pairs, "logit_difference", every_layer(model, *kinds))
    per_layer = 3 * (4 + 8 * (4 + 2 + 2) + 1 + 1)
    assert problem.num_nodes == 3 * per_layer
    assert all(isinstance(nodes, DenseNodes) for nodes in problem.nodes)
    with pytest.raises(HookPointError, match="'neurons' is no kind"):
        every_layer(model, "neurons")
    with pytest.raises(HookPointError, match="of no family"):
        every_layer(nn.Linear(2, 2), "heads")
