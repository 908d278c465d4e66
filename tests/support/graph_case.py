"""A real attribution graph of a tiny decoder in a second, with its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from bathyscope.attribution.graphs.build import (
    AttributionGraph,
    GraphSettings,
    attribution_graph,
)
from bathyscope.attribution.graphs.columns import GraphColumns, graph_columns, places_of
from bathyscope.attribution.graphs.prune import Pruned, prune
from bathyscope.attribution.graphs.public_json import GraphAbout
from bathyscope.dictionaries.kinds import AnyDictionary
from decoders import LAYERS, decoder, random_dictionary

TOKENS = [14, 8, 9, 10, 11, 12, 13, 17]
AWKWARD = ['say "hi"', "\n", "<b>x</b>", "\U0001f9ed", "\udcff", " (p=0.5)", "</script>"]
"""What tokens can look like, and a lone byte as Python decodes it."""


class GraphCase(NamedTuple):
    """A graph, what pruning left, and its columns."""

    graph: AttributionGraph
    pruned: Pruned
    columns: GraphColumns


def transcoders(
    kind: str, layers: Sequence[int] = range(LAYERS), activation: str = "topk"
) -> dict[str, AnyDictionary]:
    """One for each layer, or one over all of them."""
    reads, writes = [f"mlp_in.{n}" for n in layers], [f"mlp_out.{n}" for n in layers]
    if kind == "cross_layer_transcoder":
        return {"clt": random_dictionary(kind, reads, writes, activation=activation)}
    return {
        f"t{n}": random_dictionary(kind, [read], [write], activation=activation)
        for n, read, write in zip(layers, reads, writes, strict=True)
    }


def awkward(ids: Sequence[int]) -> list[str]:
    """Every token as one of the awkward texts."""
    return [AWKWARD[i % len(AWKWARD)] for i in ids]


def graph_case(
    kind: str = "transcoder",
    *,
    layers: Sequence[int] = range(LAYERS),
    family: str = "llama",
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
    tokens: Sequence[int] = TOKENS,
    keep: torch.Tensor | None = None,
    text: Any = awkward,
    **settings: Any,
) -> GraphCase:
    """The graph of a prompt of a random decoder with random transcoders at some layers."""
    model = decoder(family)
    made = attribution_graph(
        model,
        transcoders(kind, layers),
        torch.tensor(list(tokens)),
        keep=keep,
        settings=GraphSettings(**settings),
    )
    pruned = prune(made.graph, node_threshold=node_threshold, edge_threshold=edge_threshold)
    places = places_of(model, made.nodes)
    return GraphCase(made, pruned, graph_columns(made, pruned, places=places, text=text))


def about(**changes: Any) -> GraphAbout:
    """What is known about the graph."""
    known: dict[str, Any] = {
        "slug": "a-graph", "prompt": "".join(awkward(TOKENS)), "model": "tiny",
        "version": "0.1.0", "create_time_ms": 1_700_000_000_000, "node_threshold": 0.8,
        "edge_threshold": 0.98, "features_key": "0123456789",
        "generation": {"max_n_logits": 10, "desired_logit_prob": 0.95, "max_feature_nodes": 7500},
        "facts": {"dtype": "float32", "missing": 1e-7},
    }  # fmt: skip
    return GraphAbout(**{**known, **changes})
