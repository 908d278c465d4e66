"""What the page of an attribution graph shows, as plain values.

The columns are those of the graph's tables (`nodes`, `edges`); the page knows nothing of models,
stores or of how a graph is made.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bathyscope.pages.data import Number

Columns = Mapping[str, Any]
KINDS = ("latent", "error", "token", "logit")
MOST_NODES = 10_000
MOST_EDGES = 200_000


@dataclass(frozen=True, slots=True)
class Score:
    """One score of the graph: whole, pruned, and between which bounds it lies."""

    name: str
    value: Number
    """Of the graph before pruning."""
    pruned: Number = None
    """Of the pruned graph, what was removed counted as error."""
    bounds: tuple[Number, Number] | None = None
    """Of `value`, where the graph was truncated."""
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class GraphPage:
    """One attribution graph."""

    slug: str
    prompt: str
    model: str
    dictionaries: Sequence[str]
    num_layers: int
    nodes: Columns
    edges: Columns
    num_active: int
    """Active latents of the prompt, of which the graph has some."""
    created: str
    versions: Mapping[str, str]
    scores: Sequence[Score] = ()
    trust: Mapping[str, Number] | None = None
    """Figures of the trust report by name; None where there is none."""
    settings: Mapping[str, object] | None = None
    """Settings, digests, dtype, precision error: what the graph was made with."""
    labels: Sequence[str] | None = None
    """What a person says that each node means, [nodes]; empty where nobody said anything."""
    bias_share: Number = None
    """Share of what the target logits read that comes from biases, which are not drawn."""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """The part of a graph that its page holds."""

    nodes: Any
    """Numbers of nodes, int64 ascending [n]."""
    edges: Any
    """Numbers of edges, by falling score [m]."""
    left_out_nodes: int
    left_out_edges: int


def shown_part(page: GraphPage) -> Shown:
    """The nodes that pruning kept, at most 10,000, and the strongest edges between them.

    Tokens and logits stay; of the others the most influential do.
    """
    nodes, edges = page.nodes, page.edges
    kept = np.flatnonzero(np.asarray(nodes["kept"]))
    kind = np.array(nodes["kind"])[kept]
    is_inner = (kind == "latent") | (kind == "error")
    inner = kept[is_inner][np.argsort(np.asarray(nodes["share"])[kept[is_inner]], kind="stable")]
    room = max(MOST_NODES - int((~is_inner).sum()), 0)
    chosen = np.sort(np.concatenate([kept[~is_inner], inner[:room]]))
    inside = np.zeros(len(nodes["kept"]), dtype=bool)
    inside[chosen] = True
    between = np.flatnonzero(inside[edges["target"]] & inside[edges["source"]])
    strongest = between[np.argsort(-np.asarray(edges["score"])[between], kind="stable")]
    return Shown(
        chosen,
        strongest[:MOST_EDGES],
        max(len(inner) - room, 0),
        len(edges["target"]) - min(len(strongest), MOST_EDGES),
    )


def page_data(page: GraphPage, shown: Shown) -> dict[str, object]:
    """The drawing's data: columns of nodes, and edges as base64 of int32 and float32."""
    nodes, edges = page.nodes, page.edges
    chosen = shown.nodes.tolist()
    place = np.full(len(nodes["kept"]), -1, dtype=np.int64)
    place[shown.nodes] = np.arange(len(chosen))
    kinds = {name: number for number, name in enumerate(KINDS)}
    return {
        "numLayers": page.num_layers,
        "tokens": [
            t for t, kind in zip(nodes["text"], nodes["kind"], strict=True) if kind == "token"
        ],
        "ids": [nodes["id"][i] for i in chosen],
        "kinds": [kinds[nodes["kind"][i]] for i in chosen],
        "layers": [int(nodes["layer"][i]) for i in chosen],
        "positions": [int(nodes["position"][i]) for i in chosen],
        "names": [_name(page, i) for i in chosen],
        "labels": [page.labels[i] if page.labels else "" for i in chosen],
        "texts": [nodes["text"][i] for i in chosen],
        "activations": [_plain(nodes["activation"][i]) for i in chosen],
        "probabilities": [_plain(nodes["probability"][i]) for i in chosen],
        "influences": [_plain(nodes["influence"][i]) for i in chosen],
        "shares": [_plain(nodes["share"][i], 8) for i in chosen],
        "sources": _packed(place[edges["source"][shown.edges]], "<i4"),
        "targets": _packed(place[edges["target"][shown.edges]], "<i4"),
        "weights": _packed(edges["weight"][shown.edges], "<f4"),
        "scores": _packed(edges["score"][shown.edges], "<f4"),
    }


def _name(page: GraphPage, i: int) -> str:
    nodes = page.nodes
    kind = nodes["kind"][i]
    if kind == "latent":
        return f"latent {nodes['latent'][i]} of {nodes['dictionary'][i]}"
    if kind == "error":
        return f"error of {nodes['hook_point'][i]}"
    return "token" if kind == "token" else "output"


def _plain(value: Any, digits: int = 6) -> float | None:
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def _packed(values: Any, dtype: str) -> str:
    return base64.b64encode(np.asarray(values).astype(dtype).tobytes()).decode("ascii")
