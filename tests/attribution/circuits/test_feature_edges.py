"""Edges by hand in a linear chain, and against a model whose sites between are constant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bathyscope.attribution.circuits import feature_edges, feature_nodes
from bathyscope.attribution.nodes.forward import graph_of
from bathyscope.errors import ConfigError


def named(edge: Any) -> tuple[Any, ...]:
    up, down = edge.upstream, edge.downstream
    return (up.place, up.latent), None if down is None else (down.place, down.latent)


def test_edges_of_the_chain_by_hand(chain: Any, metric: Any) -> None:
    model, pairs, dictionaries = chain
    nodes = feature_nodes(model, pairs, metric, dictionaries)
    found = {named(e): e.weight for e in feature_edges(nodes, nodes.top(nodes.count))}
    # b_0 = a_0 + 2 a_1 with slope 1; a changes by (2, -1). b_1 has no slope. Past b, m = a_0.
    assert found == pytest.approx({
        (("a", 0), ("b", 0)): 2.0, (("a", 1), ("b", 0)): -2.0, (("a", 0), None): 2.0,
    })  # fmt: skip
    only = feature_edges(nodes, nodes.top(1))
    assert [named(edge) for edge in only] == [(("a", 0), None)]
    largest = feature_edges(nodes, nodes.top(nodes.count), threshold=2.5)
    assert largest == []


def test_edges_into_a_node_and_past_all_sites_add_up_to_the_score(chain: Any, metric: Any) -> None:
    """In the chain all that a node does goes through b or past it."""
    model, pairs, dictionaries = chain
    nodes = feature_nodes(model, pairs, metric, dictionaries)
    edges = feature_edges(nodes, nodes.top(nodes.count))
    for latent, score in ((0, 4.0), (1, -2.0)):
        given = sum(e.weight for e in edges if named(e)[0] == ("a", latent))
        assert given == pytest.approx(score)


def test_edges_equal_gradients_with_constant_sites_between(
    llama: Any, token_pairs: Any, dictionaries: Any
) -> None:
    nodes = feature_nodes(
        llama, token_pairs, "logit_difference", dictionaries, method="atp", by_position=True
    )
    edges = feature_edges(nodes, nodes.top(60))
    through = [e for e in edges if e.downstream is not None and e.downstream.place == "mlp_out.2"]
    through = [e for e in through if e.downstream is not None and e.downstream.latent >= 0][:6]
    errors = [e for e in edges if e.downstream is not None and e.downstream.latent == -1][:3]
    assert len(through) == 6
    assert {e.upstream.place for e in through + errors} >= {"resid_post.0", "mlp_out.1"}
    for edge in through + errors:
        assert edge.weight == pytest.approx(by_hand(llama, token_pairs, nodes, edge), rel=1e-5)


def by_hand(model: Any, pairs: Any, nodes: Any, edge: Any) -> float:
    """The weight of an edge from a graph in which all sites between are detached."""
    names = [site.written.name for site in nodes.sites]
    above, below = names.index(edge.upstream.place), names.index(edge.downstream.place)
    site, start = nodes.sites[below], nodes.sites[above].written
    places = list(dict.fromkeys([start, site.read, site.written]))
    plain = graph_of(model, pairs.clean, places, nodes.contrast.metric, pairs=len(pairs))
    slope = plain.gradients([site.written])[site.written][:, edge.downstream.position]
    constant = {
        s.written: Tensor.detach for s in nodes.sites[above + 1 : below] if s.written != start
    }
    cut = graph_of(
        model, pairs.clean, places, nodes.contrast.metric, pairs=len(pairs), changes=constant
    )
    at = edge.downstream.position
    x, y = (cut.tensors[p][:, at] for p in (site.read, site.written))
    latents, y_hat = site.dictionary.reconstruct(x)
    if edge.downstream.latent == -1:
        total = (slope * (y - y_hat)).sum()
    else:
        active = latents.indices == edge.downstream.latent
        worth = slope @ site.dictionary.W_dec[edge.downstream.latent]
        total = ((latents.values * active).sum(1) * worth).sum()
    (gradient,) = torch.autograd.grad(total, cut.tensors[start])
    weight = 0.0
    for bound in nodes.contrast.nodes:
        if bound.place != start or (bound.kind == "error") != (edge.upstream.latent == -1):
            continue
        chosen = (bound.table.position == edge.upstream.position) & (
            bound.table.index == edge.upstream.latent
        )
        weight += float(bound.dot(gradient)[chosen].sum())
    return weight / len(pairs)


def test_kl_has_no_slope(llama: Any, token_pairs: Any, dictionaries: Any) -> None:
    nodes = feature_nodes(llama, token_pairs, "kl", dictionaries, steps=2)
    with pytest.raises(ConfigError, match="every score would be 0"):
        feature_edges(nodes, nodes.top(3))


def test_an_empty_circuit_has_no_edges(chain: Any, metric: Any) -> None:
    nodes = feature_nodes(*chain[:2], metric, chain[2])
    assert feature_edges(nodes, nodes.top(0)) == []
