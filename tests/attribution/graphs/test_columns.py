"""Columns of real small graphs: ids that name one node, and the graph's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decoders import LAYERS, decoder, random_dictionary

from bathyscope.attribution.graphs.build import attribution_graph
from bathyscope.attribution.graphs.columns import graph_columns, places_of
from bathyscope.attribution.graphs.prune import prune
from graph_case import AWKWARD, TOKENS, awkward, graph_case

LAYOUTS = [
    ("transcoder", [0, 1, 2]),
    ("transcoder", [2]),
    ("skip_transcoder", [0, 2]),
    ("cross_layer_transcoder", [0, 1, 2]),
    ("cross_layer_transcoder", [1, 2]),
]


@pytest.mark.parametrize(("kind", "layers"), LAYOUTS)
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_ids_are_unique_and_say_where_a_node_is(kind: str, layers: list[int], family: str) -> None:
    case = graph_case(kind, layers=layers, family=family)
    nodes, found = case.columns.nodes, case.graph
    assert len(set(nodes["id"])) == len(nodes["id"]) == found.graph.num_nodes
    kinds = np.array(nodes["kind"])
    assert {k: int((kinds == k).sum()) for k in ("latent", "error", "token", "logit")} == {
        "latent": found.graph.num_latents,
        "error": found.graph.num_errors,
        "token": len(TOKENS),
        "logit": found.graph.num_logits,
    }
    # Parts are numbered 0, 1, … and layers are not.
    assert set(nodes["layer"][kinds == "latent"]) == set(layers)
    assert set(nodes["layer"][kinds == "error"]) == set(range(LAYERS))
    assert set(nodes["layer"][kinds == "logit"]) == {LAYERS}
    latent = int(np.flatnonzero(kinds == "latent")[-1])
    layer, index, position = (int(nodes[c][latent]) for c in ("layer", "index", "position"))
    assert nodes["id"][latent] == f"{layer}_{index}_{position}"
    part = found.nodes.latents.part[latent]
    assert nodes["latent"][latent] == found.nodes.parts[part].first_latent + index
    assert nodes["dictionary"][latent] == found.nodes.parts[part].name


def test_circuit_tracers_error_ids_would_collide() -> None:
    """Guards the reason for our own prefix: 0_{layer}_{position} is a latent of layer 0 here."""
    nodes = graph_case("cross_layer_transcoder", family="gpt2").columns.nodes
    theirs = {
        f"0_{layer}_{position}"
        for kind, layer, position in zip(
            nodes["kind"], nodes["layer"], nodes["position"], strict=True
        )
        if kind == "error"
    }
    latents = {i for i, k in zip(nodes["id"], nodes["kind"], strict=True) if k == "latent"}
    assert theirs & latents
    errors = {i for i, k in zip(nodes["id"], nodes["kind"], strict=True) if k == "error"}
    assert not errors & latents


def test_two_dictionaries_of_one_layer_keep_their_latents_apart() -> None:
    model = decoder("llama")
    dictionaries = {
        "first": random_dictionary("transcoder", ["mlp_in.1"], ["mlp_out.1"]),
        "second": random_dictionary("transcoder", ["mlp_in.1"], ["mlp_out.2"]),
    }
    found = attribution_graph(model, dictionaries, torch.tensor(TOKENS))
    nodes = graph_columns(
        found, prune(found.graph), places=places_of(model, found.nodes), text=awkward
    ).nodes
    assert len(set(nodes["id"])) == len(nodes["id"])
    of = {
        name: {i for i, d in enumerate(nodes["dictionary"]) if d == name} for name in dictionaries
    }
    assert {int(nodes["index"][i] - nodes["latent"][i]) for i in of["first"]} == {0}
    # 24 latents of the first one come before.
    assert {int(nodes["index"][i] - nodes["latent"][i]) for i in of["second"]} == {24}


def test_two_errors_of_one_layer_have_two_ids() -> None:
    model = decoder("llama")
    dictionaries = {
        "mlp": random_dictionary("transcoder", ["mlp_in.1"], ["mlp_out.1"]),
        "aside": random_dictionary("transcoder", ["resid_post.0"], ["attn_out.1"]),
    }
    found = attribution_graph(model, dictionaries, torch.tensor(TOKENS))
    places = places_of(model, found.nodes)
    assert places.written.count(1) == 2
    nodes = graph_columns(found, prune(found.graph), places=places, text=awkward).nodes
    assert len(set(nodes["id"])) == len(nodes["id"])
    assert {"err_1_3", "err_1.1_3"} <= set(nodes["id"])


def test_edges_are_those_that_pruning_kept_with_the_graphs_weights() -> None:
    case = graph_case()
    graph, edges = case.graph.graph, case.columns.edges
    assert len(edges["target"]) == case.pruned.edges.count > 100
    rows = np.repeat(np.arange(graph.num_nodes), np.diff(graph.indptr))
    kept = case.pruned.edges.positions()
    assert (edges["target"] == rows[kept]).all()
    assert (edges["source"] == np.asarray(graph.indices)[kept]).all()
    assert (edges["weight"] == np.asarray(graph.values)[kept]).all()
    nodes = case.columns.nodes
    assert nodes["kept"][edges["target"]].all()
    assert nodes["kept"][edges["source"]].all()


def test_scores_of_the_edges_into_a_node_are_what_flows_through_it() -> None:
    """Σ_s Â[t, s] · (influence[t] + p[t]) = p[t] of a logit, where nothing was pruned."""
    case = graph_case(node_threshold=1.0, edge_threshold=1.0)
    edges, graph = case.columns.edges, case.graph.graph
    for number, p in enumerate(graph.logit_probabilities):
        into = edges["target"] == graph.first_logit + number
        assert edges["score"][into].sum() == pytest.approx(p, rel=1e-6)


def test_biases_are_the_graphs_without_zeros() -> None:
    case = graph_case()
    biases, found = case.columns.biases, case.graph
    assert (biases["value"] != 0).all()
    assert len(biases["bias"]) == int((found.biases != 0).sum())
    of_logits = biases["target"] >= found.graph.first_logit
    total = float(found.biases[found.graph.num_latents :].sum())
    assert biases["value"][of_logits].sum() == pytest.approx(total, rel=1e-5)


def test_texts_are_those_of_the_places() -> None:
    nodes = graph_case().columns.nodes
    shown = {
        int(p): t
        for k, p, t in zip(nodes["kind"], nodes["position"], nodes["text"], strict=True)
        if k == "token"
    }
    assert list(shown.values()) == [AWKWARD[t % len(AWKWARD)] for t in TOKENS]
    for kind, position, text in zip(nodes["kind"], nodes["position"], nodes["text"], strict=True):
        if kind in ("latent", "error"):
            assert text == shown[int(position)]
