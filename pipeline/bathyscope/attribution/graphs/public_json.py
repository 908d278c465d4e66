"""The graph file that circuit-tracer's viewer and Neuronpedia open.

Flows in: the columns of a graph and what is known about it. Flows out: JSON with the keys of
circuit-tracer 0.5 (`schema_version` 1) and of Neuronpedia's schema. What neither has a key for
(scores, digests, precision, biases, trust) is under `metadata.info.bathyscope`.

Viewers put labels into HTML, and read the probability of a logit out of its label: in labels
alone, `<`, `>` and `"` are replaced by look-alikes, and `(p=` inside a token by `(p =`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from bathyscope.attribution.graphs.columns import Columns, GraphColumns
from bathyscope.attribution.graphs.slugs import check_slug
from bathyscope.values import Json

SCHEMA_VERSION = 1
FEATURE_TYPES = {
    "latent": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "token": "embedding",
    "logit": "logit",
}
"""What viewers know; per-layer transcoders have no name of their own there."""
GENERATOR = "bathyscope"
URL = "./data/"
"""Where circuit-tracer's server shows the folder of the graphs."""

Labels = Callable[[str, int], str]
"""Dictionary and latent -> what a person says that the latent means."""

_LOOK_ALIKES = str.maketrans({"<": "‹", ">": "›", '"': "″"})
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class GraphAbout:
    """What is known about a graph besides its nodes and edges."""

    slug: str
    prompt: str
    model: str
    """As people call it; Neuronpedia wants its own name of the model in `scan`."""
    version: str
    """Of Bathyscope."""
    create_time_ms: int
    node_threshold: float
    edge_threshold: float
    generation: Mapping[str, Any] = field(default_factory=dict)
    """max_n_logits, desired_logit_prob, max_feature_nodes, batch_size, and what else was set."""
    scan: str = ""
    """What viewers find latents by; empty: `custom-` and `features_key`."""
    features_key: str = ""
    """Folder of the feature files: digest of the dictionaries, so that none meets another's."""
    features_url: str = ""
    """Where feature files are on the web, for Neuronpedia."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Scores, bounds, digests, dtype, precision error, versions, trust report: plain JSON."""
    description: str = ""
    creator_name: str = ""
    source_urls: Sequence[str] = ()


class FeaturePlace(NamedTuple):
    """A latent: where its rows are, and by what viewers know it."""

    dictionary: str
    latent: int
    layer: int
    in_layer: int
    """Its number among the latents of the layer."""


def graph_json(columns: GraphColumns, about: GraphAbout, *, labels: Labels | None = None) -> Json:
    """The whole file: `metadata`, `qParams`, `nodes`, `links`.

    Nodes are those that pruning kept; bias nodes are not among them, because viewers have no such
    kind: their totals are in the metadata. Raises `ConfigError` for a slug that names no file.
    """
    nodes, ids = columns.nodes, columns.nodes["id"]
    kept = np.flatnonzero(nodes["kept"])
    logits = [i for i in kept.tolist() if nodes["kind"][i] == "logit"]
    edges = columns.edges
    return {
        "metadata": _metadata(columns, about),
        "qParams": {
            "pinnedIds": [],
            "supernodes": [],
            "linkType": "both",
            "clickedId": ids[logits[0]],
            "sg_pos": "",
        },
        "nodes": [_node(nodes, i, logits[0], labels) for i in kept.tolist()],
        "links": [
            {"source": ids[s], "target": ids[t], "weight": float(str(w))}
            for t, s, w in zip(edges["target"], edges["source"], edges["weight"], strict=True)
        ],
    }


def with_scan(graph: Json, scan: str, features_url: str = "") -> Json:
    """The same graph under another `scan`, for Neuronpedia: its own name of the model.

    `features_url` is where its feature files can be fetched, without the last slash.
    """
    metadata = dict(graph["metadata"], scan=scan)
    if features_url:
        metadata["feature_details"] = {"feature_json_base_url": features_url}
    return dict(graph, metadata=metadata)


def graph_index(known: Json | None, metadata: Json) -> Json:
    """`graph-metadata.json` with a graph added, or replaced where its slug is known already."""
    graphs = [] if known is None else list(known["graphs"])
    graphs = [g for g in graphs if g["slug"] != metadata["slug"]]
    return {"graphs": sorted([*graphs, metadata], key=lambda g: str(g["slug"]))}


def json_bytes(value: Json) -> bytes:
    """JSON as it is stored: ASCII, numbers finite, so that every parser reads it alike."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii")


def cantor_pair(layer: int, index: int) -> int:
    """(a + b)(a + b + 1) / 2 + b: one number for a layer and an index, as viewers take it apart."""
    return (layer + index) * (layer + index + 1) // 2 + index


def feature_places(nodes: Columns) -> list[FeaturePlace]:
    """The latents among the nodes kept, each once, whatever the positions."""
    kept = [i for i in np.flatnonzero(nodes["kept"]).tolist() if nodes["kind"][i] == "latent"]
    columns = ("dictionary", "latent", "layer", "index")
    found = ((nodes[c][i] for c in columns) for i in kept)
    places = {FeaturePlace(name, int(a), int(b), int(c)) for name, a, b, c in found}
    return sorted(places)


def bias_totals(columns: GraphColumns) -> Json:
    """Per bias: what it gives to the logits, weighted with p, and Σ |value| over kept targets."""
    nodes, biases = columns.nodes, columns.biases
    weight = np.nan_to_num(nodes["probability"])[biases["target"]]
    kept = nodes["kept"][biases["target"]]
    totals: Json = {}
    for name, value, p, stays in zip(biases["bias"], biases["value"], weight, kept, strict=True):
        total = totals.setdefault(name, {"to_logits": 0.0, "absolute": 0.0})
        total["to_logits"] += float(value * p)
        total["absolute"] += float(abs(value)) if stays else 0.0
    return totals


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinity are None, arrays lists, NumPy numbers plain."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return readable(value) if isinstance(value, str) else value


def readable(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate, half of a character, becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def label(text: str) -> str:
    """Text inside of a label."""
    return readable(text).translate(_LOOK_ALIKES).replace("(p=", "(p =")


def _metadata(columns: GraphColumns, about: GraphAbout) -> Json:
    nodes = columns.nodes
    kinds = np.array(nodes["kind"])
    inside = nodes["kept"] & np.isin(kinds, ["latent", "error"])
    # Viewers hide nodes whose share is over the threshold; the last one that pruning keeps is.
    threshold = max([about.node_threshold, *nodes["share"][inside]])
    tokens = np.flatnonzero(kinds == "token")
    folder = f"{URL}features/{about.features_key}"
    found: Json = {
        "slug": check_slug(about.slug),
        "scan": about.scan or f"custom-{about.features_key}",
        "transcoder_list": [folder] * int(nodes["layer"].max()),
        "prompt_tokens": [readable(nodes["text"][i]) for i in tokens],
        "prompt": readable(about.prompt),
        "node_threshold": math.ceil(threshold * 1e4) / 1e4,
        "schema_version": SCHEMA_VERSION,
        "info": _info(columns, about),
        "generation_settings": plain(about.generation),
        "pruning_settings": {
            "node_threshold": about.node_threshold,
            "edge_threshold": about.edge_threshold,
        },
    }
    if about.features_url:
        found["feature_details"] = {"feature_json_base_url": about.features_url}
    return found


def _info(columns: GraphColumns, about: GraphAbout) -> Json:
    facts = {"model": about.model, **about.facts, "biases": bias_totals(columns)}
    info: Json = {
        "generator": {"name": GENERATOR, "version": about.version},
        "create_time_ms": about.create_time_ms,
        "bathyscope": plain(facts),
    }
    texts = {"description": about.description, "creator_name": about.creator_name}
    info |= {name: readable(text) for name, text in texts.items() if text}
    return info | ({"source_urls": list(about.source_urls)} if about.source_urls else {})


def _node(nodes: Columns, i: int, first_logit: int, labels: Labels | None) -> Json:
    kind, position, layer = nodes["kind"][i], int(nodes["position"][i]), int(nodes["layer"][i])
    token, text = int(nodes["token"][i]), nodes["text"][i]
    node: Json = {
        "node_id": nodes["id"][i],
        "feature_type": FEATURE_TYPES[kind],
        "ctx_idx": position,
        "token_prob": 0.0,
        "is_target_logit": i == first_logit,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "influence": None if kind == "logit" else float(nodes["share"][i]),
        "activation": None,
    }
    if kind == "latent":
        index, dictionary, latent = (
            int(nodes["index"][i]),
            nodes["dictionary"][i],
            int(nodes["latent"][i]),
        )
        # Without a name the lists of a viewer would have an empty row.
        said = (labels(dictionary, latent) if labels else "") or f"{dictionary} {latent}"
        node |= {
            "feature": cantor_pair(layer, index),
            "layer": f"{layer}",
            "jsNodeId": f"{layer}_{index}-0",
            "clerp": label(said),
            "activation": plain(float(str(nodes["activation"][i]))),
        }
    elif kind == "error":
        js = f"{nodes['id'][i].rpartition('_')[0]}-{position}"
        clerp = f'Err: {label(nodes["hook_point"][i])} "{label(text)}"'
        node |= {"feature": -1, "layer": f"{layer}", "jsNodeId": js, "clerp": clerp}
    elif kind == "token":
        js = f"E_{token}-{position}"
        node |= {"feature": position, "layer": "E", "jsNodeId": js}
        node["clerp"] = f'Emb: "{label(text)}"'
    else:
        probability = float(nodes["probability"][i])
        node |= {"feature": token, "layer": f"{layer + 1}", "jsNodeId": f"L_{token}-{position}"}
        node["clerp"] = f'Output "{label(text)}" (p={probability:.3f})'
        node["token_prob"] = probability
    return node
