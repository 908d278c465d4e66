"""Graphs within a budget: which latents are nodes, what the others become, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bathyscope.attribution.graphs.build import AttributionGraph, GraphSettings, attribution_graph
from bathyscope.attribution.graphs.influence import influence_of
from bathyscope.attribution.graphs.order import order_of
from bathyscope.errors import BathyscopeError, ConfigError, GraphError, ModelError
from decoders import CONTEXT, decoder, random_dictionary, random_model
from row_cases import TOKENS, transcoders


def graph_of(**settings: Any) -> AttributionGraph:
    return attribution_graph(
        decoder("llama"), transcoders("transcoder"), TOKENS, settings=GraphSettings(**settings)
    )


def dense(found: AttributionGraph) -> np.ndarray:
    graph = found.graph
    made = np.zeros((graph.num_nodes, graph.num_nodes))
    for t in range(graph.num_nodes):
        row = slice(graph.indptr[t], graph.indptr[t + 1])
        made[t, graph.indices[row]] = graph.values[row]
    return made


def test_targets_are_the_most_probable_tokens_that_reach_a_share() -> None:
    model = decoder("llama")
    with torch.no_grad():
        p = model(input_ids=TOKENS[None]).logits[0, -1].softmax(-1)
    top = p.sort(descending=True)
    needed = int((top.values.cumsum(0) < 0.5).sum()) + 1
    found = graph_of(logit_probability=0.5, most_logits=64)
    assert found.nodes.logits.token.tolist() == top.indices[:needed].tolist()
    np.testing.assert_allclose(found.graph.logit_probabilities, top.values[:needed], rtol=1e-5)
    assert len(graph_of(most_logits=2).nodes.logits.token) == 2
    assert sorted(graph_of(logit_tokens=(3, 9)).nodes.logits.token.tolist()) == [3, 9]


def test_the_most_influential_latents_are_nodes() -> None:
    whole, some = graph_of(), graph_of(most_latents=20)
    assert len(some.nodes.latents) == 20
    assert some.num_active == len(whole.nodes.latents) > 60
    influence = influence_of(whole.graph, order_of(whole.graph)).nodes[: some.num_active]
    best = np.argsort(-influence)[:20]

    def named(found: AttributionGraph, which: Any) -> set[tuple[int, ...]]:
        latents = found.nodes.latents
        parts = (latents.part[which], latents.position[which], latents.latent[which])
        return set(zip(*(part.tolist() for part in parts), strict=True))

    # Chosen by the rows so far, so the last few may differ.
    both = named(whole, torch.from_numpy(best)) & named(some, slice(None))
    assert len(both) >= 16


def test_latents_that_are_no_nodes_count_as_error() -> None:
    """The rows of the chosen: the same entries, and the others' at the error of their place."""
    whole, some = graph_of(), graph_of(most_latents=20)
    assert some.missing < 1e-5
    A, B = dense(whole), dense(some)
    w, s = whole.nodes.latents, some.nodes.latents
    places = {
        key: i
        for i, key in enumerate(
            zip(w.part.tolist(), w.position.tolist(), w.latent.tolist(), strict=True)
        )
    }
    chosen = [
        places[key]
        for key in zip(s.part.tolist(), s.position.tolist(), s.latent.tolist(), strict=True)
    ]
    left = sorted(set(range(len(w))) - set(chosen))
    rows = A[-len(whole.nodes.logits.token) :]
    found = B[-len(some.nodes.logits.token) :]
    np.testing.assert_allclose(found[:, : len(s)], rows[:, chosen], rtol=1e-4, atol=1e-6)
    errors = rows[:, whole.graph.errors].copy()
    at = whole.error_of_latent()
    for latent in left:
        errors[:, at[latent]] += rows[:, latent]
    np.testing.assert_allclose(found[:, some.graph.errors], errors, rtol=1e-4, atol=1e-5)


def test_truncated_rows_keep_their_share() -> None:
    whole, some = graph_of(), graph_of(row_share=0.9)
    assert some.graph.num_edges < whole.graph.num_edges
    assert some.graph.dropped is not None
    A, B = np.abs(dense(whole)), np.abs(dense(some))
    targets = A.sum(1) > 0
    assert (B.sum(1)[targets] >= 0.9 * A.sum(1)[targets] * (1 - 1e-6)).all()
    np.testing.assert_allclose(some.graph.dropped.row_sums[targets], A.sum(1)[targets], rtol=1e-5)


def test_a_small_batch_gives_the_same_graph() -> None:
    whole = graph_of()
    # One target at a time: a quarter of this holds the gradients of one.
    small = graph_of(memory_bytes=200_000)
    np.testing.assert_allclose(dense(small), dense(whole), rtol=1e-4, atol=1e-6)


def test_a_graph_over_the_budget_is_refused_with_a_smaller_one_that_fits() -> None:
    with pytest.raises(GraphError, match=r"attribute.most_latents=(\d+)") as refused:
        graph_of(memory_bytes=45_000)
    fits = int(str(refused.value).partition("most_latents=")[2].partition(",")[0])
    assert len(graph_of(memory_bytes=45_000, most_latents=fits).nodes.latents) == fits
    with pytest.raises(GraphError, match=r"Raise attribute.memory_bytes, or give a shorter prompt"):
        graph_of(memory_bytes=10_000)


def refused(match: str, error: type[BathyscopeError], *args: Any, **kwargs: Any) -> None:
    with pytest.raises(error, match=match):
        attribution_graph(*args, **kwargs)


def test_bad_input() -> None:
    model, given = decoder("llama"), transcoders("transcoder")
    long = torch.full((CONTEXT + 1,), 3)
    refused(
        r"has 65 tokens, and the model was made for at most 64", ConfigError, model, given, long
    )
    refused(r"tokens of shape \[0\]", ConfigError, model, given, long[:0])
    refused(r"No dictionary is given", ConfigError, model, {}, TOKENS)
    sae = {"sae": random_dictionary("autoencoder", ["mlp_in.1"])}
    refused(r"'sae' is of kind autoencoder, which writes what it", ConfigError, model, sae, TOKENS)
    twice = {n: random_dictionary("transcoder", ["mlp_in.1"], ["mlp_out.1"]) for n in "ab"}
    refused(r"'b' writes 'mlp_out.1', which another one", ConfigError, model, twice, TOKENS)
    wide = {"w": random_dictionary("transcoder", ["mlp_in.1"], ["mlp_out.1"], width=16)}
    with pytest.raises((ConfigError, RuntimeError), match=r"16 columns for 'mlp_in.1'"):
        attribution_graph(model, wide, TOKENS)
    back = {"b": random_dictionary("transcoder", ["mlp_in.2"], ["mlp_out.1"])}
    refused(r"'mlp_out.1', which lies before it", ConfigError, model, back, TOKENS)
    inside = {
        "i": random_dictionary("transcoder", ["model.layers.1.mlp.gate_proj:in"], ["mlp_out.1"])
    }
    refused(
        r"lies inside a module that a dictionary stands for", ConfigError, model, inside, TOKENS
    )
    settings = GraphSettings(logit_tokens=(128,))
    refused(r"Token 128 is none of the 128", ConfigError, model, given, TOKENS, settings=settings)


def test_offloaded_weights_are_refused_before_the_forward() -> None:
    model = random_model(decoder("llama").config)
    model.model.layers[1].mlp.to("meta")
    refused(r"3 of them are offloaded, the first 'model.layers.1.mlp", ModelError,
            model, transcoders("transcoder"), TOKENS)  # fmt: skip


def test_a_row_that_does_not_add_up_is_refused() -> None:
    """A path that gradients do not see: values are changed behind autograd's back."""
    model = random_model(decoder("llama").config)

    def hidden(_: Any, __: Any, y: torch.Tensor) -> torch.Tensor:
        return y + y.detach()

    model.model.layers[1].self_attn.o_proj.register_forward_hook(hidden)
    refused(r"adds up to something else than its target reads", GraphError,
            model, transcoders("transcoder"), TOKENS)  # fmt: skip
