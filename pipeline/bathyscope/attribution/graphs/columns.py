"""An attribution graph as plain columns: what tables, public files and pages are made of.

Node numbers are those of the graph: latents, errors, tokens, logits. Ids are texts that name a
node outside of this graph: `{layer}_{index}_{position}` for latents, as circuit-tracer has it,
`err_{layer}_{position}` for errors (circuit-tracer's `0_{layer}_{position}` is also the id of a
latent of layer 0), `E_{token}_{position}` for tokens, `{layers + 1}_{token}_{position}` for logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from bathyscope.attribution.graphs.blocks import row_blocks
from bathyscope.attribution.graphs.build import AttributionGraph
from bathyscope.attribution.graphs.graph import Graph
from bathyscope.attribution.graphs.influence import edge_scores, influence_of
from bathyscope.attribution.graphs.nodes import Nodes
from bathyscope.attribution.graphs.order import Order, order_of
from bathyscope.attribution.graphs.prune import Pruned
from bathyscope.attribution.graphs.replacement import layer_of
from bathyscope.models.hook_points import layer_numbers, resolve

KINDS = ("latent", "error", "token", "logit")

Columns = dict[str, Any]
"""Column name -> numpy array, or list of texts; all of one length."""
Text = Callable[[Sequence[int]], list[str]]
"""Token ids -> what they look like in text."""


class GraphColumns(NamedTuple):
    """The three tables of a graph."""

    nodes: Columns
    """Every node, in the graph's order [n]."""
    edges: Columns
    """The edges that pruning kept, by target and source [m]."""
    biases: Columns
    """What each bias gives to each target, without zeros; as many texts as rows."""


@dataclass(frozen=True)
class Places:
    """Where in a model the nodes stand."""

    num_layers: int
    written: tuple[int, ...]
    """The layer of each hook point that is written, in the order of `Nodes.written`."""


def places_of(model: nn.Module, nodes: Nodes) -> Places:
    """The layers of a model and of the hook points that are written. Raises as `layer_of` does."""
    written = tuple(layer_of(resolve(model, name)) for name in nodes.written)
    return Places(max([*layer_numbers(model), *written]) + 1, written)


def graph_columns(
    found: AttributionGraph,
    pruned: Pruned,
    *,
    places: Places,
    text: Text,
    order: Order | None = None,
) -> GraphColumns:
    """The columns of a graph and of what pruning left of it.

    `share` is the cumulative share of influence that viewers call influence; `score` of an edge is
    Â[t, s] · (influence[t] + p[t]) in the graph of the kept nodes.
    """
    nodes = _nodes(found, places, text)
    nodes |= {
        "influence": pruned.influence.nodes,
        "share": pruned.cumulative_shares(),
        "kept": pruned.nodes,
    }
    edges = _edges(found.graph, pruned, order or order_of(found.graph))
    return GraphColumns(nodes, edges, _biases(found))


def indices_in_layer(nodes: Nodes) -> np.ndarray:
    """The number of each latent among all latents of the parts that read its layer [latents].

    That is the row of the encoder, unless several dictionaries read one layer: then those of the
    later ones come after those of the earlier ones, so that layer and index name one latent.
    """
    first, total = [], dict.fromkeys((part.layer for part in nodes.parts), 0)
    for part in nodes.parts:
        first.append(total[part.layer])
        total[part.layer] += part.coder.num_latents
    return np.array(first, dtype=np.int64)[_ints(nodes.latents.part)] + _ints(nodes.latents.latent)


def _nodes(found: AttributionGraph, places: Places, text: Text) -> Columns:
    latents = _latents(found.nodes)
    errors = _errors(found.nodes, places)
    tokens, logits = _tokens(found), _logits(found, places)
    groups = (latents, errors, tokens, logits)
    sizes = [len(group["id"]) for group in groups]
    columns: Columns = {"kind": [k for k, n in zip(KINDS, sizes, strict=True) for _ in range(n)]}
    for name, missing in _DEFAULTS.items():
        parts = [group.get(name, [missing] * n) for group, n in zip(groups, sizes, strict=True)]
        joined = [value for part in parts for value in part]
        columns[name] = joined if isinstance(missing, str) else np.array(joined, _DTYPES[name])
    shown = text([*_ints(found.tokens).tolist(), *_ints(found.nodes.logits.token).tolist()])
    prompt, outputs = shown[: len(found.tokens)], shown[len(found.tokens) :]
    inner = columns["position"][: found.graph.first_logit]
    columns["text"] = [*(prompt[p] for p in inner), *outputs]
    return columns


_DEFAULTS: dict[str, Any] = {
    "id": "",
    "layer": -1,
    "position": -1,
    "dictionary": "",
    "latent": -1,
    "index": -1,
    "hook_point": "",
    "token": -1,
    "activation": np.nan,
    "probability": np.nan,
}
"""Columns of nodes, with what stands where a kind has none."""
_DTYPES = {n: np.float32 if isinstance(m, float) else np.int64 for n, m in _DEFAULTS.items()}


def _latents(nodes: Nodes) -> Columns:
    parts, latents = nodes.parts, nodes.latents
    part = _ints(latents.part)
    layer = np.array([p.layer for p in parts], dtype=np.int64)[part]
    first = np.array([p.first_latent for p in parts], dtype=np.int64)[part]
    position, index = _ints(latents.position), indices_in_layer(nodes)
    ids = [f"{a}_{b}_{c}" for a, b, c in zip(layer, index, position, strict=True)]
    return {
        "id": ids,
        "layer": layer,
        "position": position,
        "dictionary": [parts[p].name for p in part],
        "latent": first + _ints(latents.latent),
        "index": index,
        "hook_point": [parts[p].reads for p in part],
        "activation": latents.value.detach().float().cpu().numpy(),
    }


def _errors(nodes: Nodes, places: Places) -> Columns:
    length, names = nodes.num_positions, []
    for number, layer in enumerate(places.written):
        again = places.written[:number].count(layer)
        names.append(f"{layer}.{again}" if again else f"{layer}")
    return {
        "id": [f"err_{name}_{p}" for name in names for p in range(length)],
        "layer": np.repeat(np.array(places.written, dtype=np.int64), length),
        "position": np.tile(np.arange(length), len(names)),
        "hook_point": [name for name in nodes.written for _ in range(length)],
    }


def _tokens(found: AttributionGraph) -> Columns:
    token = _ints(found.tokens)
    return {
        "id": [f"E_{t}_{p}" for p, t in enumerate(token)],
        "position": np.arange(len(token)),
        "token": token,
    }


def _logits(found: AttributionGraph, places: Places) -> Columns:
    token, last = _ints(found.nodes.logits.token), len(found.tokens) - 1
    return {
        "id": [f"{places.num_layers + 1}_{t}_{last}" for t in token],
        "layer": np.full(len(token), places.num_layers),
        "position": np.full(len(token), last),
        "token": token,
        "probability": found.nodes.logits.probability.float().cpu().numpy(),
    }


def _edges(graph: Graph, pruned: Pruned, order: Order) -> Columns:
    rates = influence_of(graph, order, pruned.nodes).rates
    targets: list[Any] = [np.zeros(0, dtype=np.int64)]
    sources: list[Any] = [np.zeros(0, dtype=np.int64)]
    weights: list[Any] = [np.zeros(0, dtype=np.float32)]
    scores: list[Any] = [np.zeros(0)]
    for block in row_blocks(graph, np.flatnonzero(pruned.nodes & (np.diff(graph.indptr) > 0))):
        kept = pruned.edges.at(block.positions())
        targets.append(block.spread(block.rows)[kept])
        sources.append(block.indices[kept].astype(np.int64))
        weights.append(block.values[kept])
        scores.append(edge_scores(block, rates, pruned.nodes)[kept])
    found = {"target": targets, "source": sources, "weight": weights, "score": scores}
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _biases(found: AttributionGraph) -> Columns:
    values = found.biases.cpu().numpy()
    row, name = np.nonzero(values)
    is_logit = row >= found.graph.num_latents
    target = row + is_logit * (found.graph.first_logit - found.graph.num_latents)
    return {
        "target": target,
        "bias": [found.bias_names[n] for n in name],
        "value": values[row, name],
    }


def _ints(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.int64)
