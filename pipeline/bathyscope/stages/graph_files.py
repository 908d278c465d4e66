"""The files of a graph: tables of nodes, edges and biases, and the JSON of the public viewers.

In the artifact: `tables/<segment>/<slug>.<table>.parquet`, and a folder `viewer/<segment>` that
circuit-tracer's server opens as it is, with `graph-metadata.json` and `graph_data/<slug>.json`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bathyscope import __version__
from bathyscope.attribution.graphs.build import AttributionGraph
from bathyscope.attribution.graphs.columns import GraphColumns, Places, graph_columns
from bathyscope.attribution.graphs.order import Order
from bathyscope.attribution.graphs.prune import Pruned
from bathyscope.attribution.graphs.public_json import (
    GraphAbout,
    graph_index,
    graph_json,
    json_bytes,
)
from bathyscope.attribution.graphs.slugs import slug_of
from bathyscope.config.attribute import AttributeConfig
from bathyscope.models.tokenizers import token_strings
from bathyscope.runs.graph_tables import graph_tables
from bathyscope.runs.identity import digest
from bathyscope.runs.tables import to_parquet
from bathyscope.stages.prompts import Prompt
from bathyscope.stores.objects import Objects
from bathyscope.values import Json


@dataclass(frozen=True)
class Naming:
    """What files say of where a graph comes from."""

    model: str
    tokenizer: object
    places: Places
    identity: Json
    """Of the whole artifact."""
    settings: AttributeConfig


def columns_of(
    found: AttributionGraph, pruned: Pruned, order: Order, naming: Naming
) -> GraphColumns:
    """The tables of a graph as plain columns."""
    return graph_columns(
        found,
        pruned,
        places=naming.places,
        text=lambda ids: token_strings(naming.tokenizer, ids),
        order=order,
    )


def slug(prompt: Prompt, naming: Naming) -> str:
    """The name of a prompt's files."""
    return slug_of(prompt.text, {"artifact": digest(naming.identity), "id": prompt.id})


def write_files(
    objects: Objects,
    segment: str,
    prompt: Prompt,
    columns: GraphColumns,
    figures: Json,
    naming: Naming,
) -> Json:
    """Store a graph's tables and its JSON; what the index of the viewer says of it."""
    name = slug(prompt, naming)
    for table, rows in graph_tables(columns.nodes, columns.edges, columns.biases).items():
        objects.put(f"tables/{segment}/{name}.{table}.parquet", to_parquet(rows))
    made = graph_json(columns, _about(name, prompt, figures, naming))
    objects.put(f"viewer/{segment}/graph_data/{name}.json", json_bytes(made))
    metadata: Json = made["metadata"]
    return metadata


def write_index(objects: Objects, segment: str, metadata: Sequence[Json]) -> str:
    """Store the list of all graphs; the folder that a viewer opens."""
    index: Json | None = None
    for one in metadata:
        index = graph_index(index, one)
    folder = f"viewer/{segment}"
    objects.put(f"{folder}/graph-metadata.json", json_bytes(index or {"graphs": []}))
    return folder


def _about(name: str, prompt: Prompt, figures: Json, naming: Naming) -> GraphAbout:
    settings = naming.settings
    dictionaries: Mapping[str, str] = naming.identity["dictionaries"]
    return GraphAbout(
        slug=name,
        prompt=prompt.text,
        model=naming.model,
        version=__version__,
        create_time_ms=int(1000 * time.time()),
        node_threshold=settings.node_threshold,
        edge_threshold=settings.edge_threshold,
        generation={
            "max_n_logits": settings.most_logits,
            "desired_logit_prob": settings.logit_probability,
            "max_feature_nodes": settings.most_latents,
            "row_share": settings.row_share,
        },
        features_key=digest(dict(dictionaries)),
        facts={
            "model_digest": naming.identity["model"],
            "dictionaries": dict(dictionaries),
            "dtype": naming.identity["dtype"],
            "figures": figures,
        },
    )
