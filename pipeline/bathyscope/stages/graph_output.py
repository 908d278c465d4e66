"""What is written of a prompt's graph, and what its files say of where it comes from.

When a graph was made, and in how many seconds, stands in `history/{slug}.json`: it is no part of
the result, so that two workers that make the same graph agree on its receipt.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bathyscope import __version__
from bathyscope.attribution.graphs.build import AttributionGraph
from bathyscope.attribution.graphs.columns import GraphColumns, Places, graph_columns
from bathyscope.attribution.graphs.order import Order
from bathyscope.attribution.graphs.prune import Pruned
from bathyscope.attribution.graphs.public_json import GraphAbout, json_bytes
from bathyscope.attribution.graphs.slugs import slug_of
from bathyscope.config.attribute import AttributeConfig
from bathyscope.models.tokenizers import token_strings
from bathyscope.pages.graph_data import GraphPage
from bathyscope.runs.identity import digest
from bathyscope.runs.run import Run
from bathyscope.stages.graph_figures import graph_scores
from bathyscope.stages.graph_files import (
    bias_share,
    write_features,
    write_graph_files,
    write_index,
)
from bathyscope.stages.prompts import Prompt
from bathyscope.stores.objects import Objects
from bathyscope.values import Json


@dataclass(frozen=True)
class Origin:
    """Where the graphs of an artifact come from."""

    run: Run
    model: str
    tokenizer: Any
    identity: Json
    """Of the whole artifact."""
    settings: AttributeConfig

    def words(self, ids: Sequence[int]) -> list[str]:
        """Tokens as they look in text."""
        return token_strings(self.tokenizer, ids)


@dataclass(frozen=True)
class Made:
    """A graph with what pruning left of it."""

    prompt: Prompt
    found: AttributionGraph
    pruned: Pruned
    order: Order
    places: Places
    figures: Json
    started: float
    """Seconds since 1970."""


def folder_of(segment: str) -> str:
    """The folder of the artifact that files are in."""
    return f"files.{segment}"


def write_graph(objects: Objects, segment: str, made: Made, origin: Origin) -> str:
    """Store the files of a graph: JSON, tables, page, latents, history. Returns its slug."""
    folder = folder_of(segment)

    def put(key: str, data: bytes) -> None:
        objects.put(f"{folder}/{key}", data)

    columns = graph_columns(
        made.found, made.pruned, places=made.places, text=origin.words, order=made.order
    )
    identity = {"artifact": digest(origin.identity), "id": made.prompt.id}
    about = _about(slug_of(made.prompt.text, identity), made, origin)
    metadata = write_graph_files(put, columns, about, _page(about, columns, made, origin))
    write_features(put, origin.run, columns.nodes, key=about.features_key, words=origin.words)
    history = {"started": made.started, "finished": time.time(), "metadata": metadata}
    put(f"history/{about.slug}.json", json_bytes(history))
    return about.slug


def close(objects: Objects, segment: str, slugs: Sequence[str]) -> list[Json]:
    """Write the index of all graphs; when each was begun and finished."""
    folder = folder_of(segment)
    histories: list[Json] = [
        json.loads(objects.get(f"{folder}/history/{slug}.json")) for slug in slugs
    ]
    write_index(
        lambda key, data: objects.put(f"{folder}/{key}", data),
        [history.pop("metadata") for history in histories],
    )
    return histories


def _about(slug: str, made: Made, origin: Origin) -> GraphAbout:
    settings = origin.settings
    dictionaries: Mapping[str, str] = origin.identity["dictionaries"]
    return GraphAbout(
        slug=slug,
        prompt=made.prompt.text,
        model=origin.model,
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
            "model_digest": origin.identity["model"],
            "dictionaries": dict(dictionaries),
            "dtype": origin.identity["dtype"],
            "figures": made.figures,
        },
    )


def _page(about: GraphAbout, columns: GraphColumns, made: Made, origin: Origin) -> GraphPage:
    found = made.found
    return GraphPage(
        slug=about.slug,
        prompt=about.prompt,
        model=about.model,
        dictionaries=list(origin.identity["dictionaries"]),
        num_layers=made.places.num_layers,
        nodes=columns.nodes,
        edges=columns.edges,
        num_active=found.num_active,
        created=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(made.started)),
        versions={"bathyscope": __version__, "torch": str(torch.__version__)},
        scores=graph_scores(made.figures),
        trust=_trust(made.figures),
        settings={
            **about.generation,
            "node_threshold": about.node_threshold,
            "edge_threshold": about.edge_threshold,
            "dtype": about.facts["dtype"],
            "largest share that a row misses": found.missing,
        },
        bias_share=bias_share(found),
        truncated=found.graph.dropped is not None,
    )


def _trust(figures: Json) -> dict[str, float | None] | None:
    trust = figures.get("trust")
    if trust is None:
        return None
    logits = {f"logits, {name}": value for name, value in trust["logits"].items()}
    return {
        "latents taken away": trust["sample"],
        "frozen: largest error of an edge": trust["frozen_error"],
        **logits,
        "later latents, pearson": trust["later_latents"]["pearson"],
    }
