"""Edges are what taking a latent away does in the frozen model, in every family; and the report."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bathyscope.attribution.graphs.build import AttributionGraph, GraphSettings, attribution_graph
from bathyscope.attribution.graphs.influence import influence_of
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.trust import GraphTrust, graph_trust
from decoders import DECODERS, decoder
from row_cases import TOKENS, transcoders


def trust_of(family: str, kind: str, sample: int = 12) -> tuple[AttributionGraph, GraphTrust]:
    model = decoder(family)
    found = attribution_graph(model, transcoders(kind), TOKENS)
    influence = influence_of(found.graph, order_of(found.graph)).nodes
    return found, graph_trust(model, found, influence, sample=sample, batch=5)


@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder", "cross_layer_transcoder"])
@pytest.mark.parametrize("family", sorted(DECODERS))
def test_taking_a_latent_away_changes_what_edges_say(family: str, kind: str) -> None:
    _, trust = trust_of(family, kind)
    assert trust.frozen_error < 1e-4


def test_expected_changes_along_all_paths_by_hand() -> None:
    """r by forward substitution, one latent after another."""
    found, trust = trust_of("llama", "transcoder")
    num, graph = len(found.nodes.latents), found.graph
    dense = np.zeros((graph.num_nodes, graph.num_nodes))
    for t in range(graph.num_nodes):
        row = slice(graph.indptr[t], graph.indptr[t + 1])
        dense[t, graph.indices[row]] = graph.values[row]
    values = found.nodes.latents.value.numpy()
    for place, s in enumerate(trust.latents):
        r = np.zeros(num)
        for t in range(num):
            r[t] = -1.0 if t == s else dense[t, :num] @ r / values[t]
        wanted = dense[graph.first_logit :, :num] @ r
        np.testing.assert_allclose(trust.expected[place], wanted, rtol=1e-4, atol=1e-5)


def test_a_flipped_sign_is_seen() -> None:
    found, trust = trust_of("llama", "transcoder", sample=40)
    graph = dataclasses.replace(found.graph, values=-np.asarray(found.graph.values[:]))
    flipped = dataclasses.replace(found, graph=graph)
    influence = influence_of(graph, order_of(graph)).nodes
    seen = graph_trust(decoder("llama"), flipped, influence, sample=40)
    assert trust.frozen_error < 1e-4
    assert seen.frozen_error > 1.5
    assert trust.latents_pearson > 0.4
    assert seen.latents_pearson < 0.1


def test_figures_are_plain_numbers() -> None:
    _, trust = trust_of("gpt2", "transcoder", sample=1)
    told = trust.to_json()
    assert told["sample"] == 1
    assert told["logits"]["relative_error"] > 0


def test_without_latents_nothing_is_defined() -> None:
    model, keep = decoder("llama"), torch.zeros(len(TOKENS), dtype=torch.bool)
    found = attribution_graph(
        model, transcoders("transcoder"), TOKENS, keep=keep, settings=GraphSettings()
    )
    assert len(found.nodes.latents) == 0
    trust = graph_trust(model, found, np.zeros(found.graph.num_nodes))
    assert trust.latents == ()
    assert trust.to_json()["logits"]["pearson"] is None
