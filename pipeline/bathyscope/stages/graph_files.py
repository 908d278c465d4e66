"""The files of attribution graphs, from a graph and what a run knows of its latents.

graph_data/graph-metadata.json, {slug}.json          circuit-tracer serves this folder as it is
graph_data/features/{features_key}/{feature}.json    one per latent that occurs in a graph
tables/{slug}/nodes.parquet, edges.parquet, biases.parquet
pages/{slug}.html, {slug}.js, assets/                opens from disk
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bathyscope.attribution.graphs.blocks import row_blocks
from bathyscope.attribution.graphs.build import AttributionGraph
from bathyscope.attribution.graphs.columns import Columns, GraphColumns
from bathyscope.attribution.graphs.public_json import (
    GraphAbout,
    Labels,
    cantor_pair,
    feature_places,
    graph_json,
    json_bytes,
    plain,
)
from bathyscope.errors import MissingArtifact
from bathyscope.features.details import Words, feature_detail
from bathyscope.pages.graph_data import GraphPage
from bathyscope.pages.graph_page import write_graph_page
from bathyscope.runs.graph_tables import graph_tables
from bathyscope.runs.run import FEATURES, Run
from bathyscope.runs.tables import to_parquet
from bathyscope.values import Json

logger = logging.getLogger(__name__)

GRAPH_DATA, TABLES, PAGES = "graph_data", "tables", "pages"
INDEX = f"{GRAPH_DATA}/graph-metadata.json"

Put = Callable[[str, bytes], None]


def write_graph_files(
    put: Put,
    columns: GraphColumns,
    about: GraphAbout,
    page: GraphPage,
    *,
    labels: Labels | None = None,
) -> Json:
    """Write JSON, tables and page of a graph; returns its metadata, for the index.

    The index is written by `write_index` when all graphs are there.
    """
    graph = graph_json(columns, about, labels=labels)
    for name, table in graph_tables(*columns).items():
        put(f"{TABLES}/{about.slug}/{name}.parquet", to_parquet(table))
    write_graph_page(put, page, folder=f"{PAGES}/")
    put(f"{GRAPH_DATA}/{about.slug}.json", json_bytes(graph))
    metadata: Json = graph["metadata"]
    return metadata


def write_index(put: Put, metadata: Iterable[Json]) -> None:
    """Write `graph-metadata.json`, which viewers read first."""
    graphs = sorted(metadata, key=lambda each: str(each["slug"]))
    put(INDEX, json_bytes({"graphs": graphs}))


def write_features(put: Put, run: Run, nodes: Columns, *, key: str, words: Words) -> int:
    """Write the feature files of the latents that a graph has, and return how many there are.

    Latents of dictionaries that were not described have no file; that is logged once for each.
    """
    count = 0
    for feature, detail in feature_details(run, nodes, words=words):
        put(f"{GRAPH_DATA}/features/{key}/{feature}.json", json_bytes(plain(detail)))
        count += 1
    return count


def feature_details(run: Run, nodes: Columns, *, words: Words) -> Iterator[tuple[int, Json]]:
    """Feature number and file of each latent among the nodes kept, where the run describes it."""
    places = feature_places(nodes)
    for name in sorted({place.dictionary for place in places}):
        mine = {place.latent: place for place in places if place.dictionary == name}
        try:
            edges = run.manifest(f"{FEATURES}/{name}").facts["histogram_edges"]
        except MissingArtifact:
            logger.info("graph files: dictionary %s is not described, no feature files", name)
            continue
        rows = _rows_of(run.features(name), mine)
        examples = defaultdict(list)
        for row in _rows_of(run.examples(name), mine):
            examples[row["latent"]].append(row)
        for row in rows:
            place = mine[row["latent"]]
            detail = feature_detail(
                row,
                examples[row["latent"]],
                index=place.in_layer,
                transcoder=name,
                edges=edges,
                words=words,
            )
            yield cantor_pair(place.layer, place.in_layer), detail


def bias_share(found: AttributionGraph) -> float:
    """Share of Σ |what goes into the target logits| that biases give, weighted with p."""
    graph = found.graph
    rows = np.arange(graph.first_logit, graph.num_nodes)
    sums = np.concatenate([block.sums(block.mass()) for block in row_blocks(graph, rows)])
    if graph.dropped is not None:
        sums = graph.dropped.row_sums[rows]
    biases = np.abs(found.biases[graph.num_latents :].double().cpu().numpy()).sum(axis=1)
    p = graph.logit_probabilities
    return float((p * biases).sum() / max((p * (sums + biases)).sum(), np.finfo(float).tiny))


def _rows_of(table: pa.Table, latents: Iterable[int]) -> list[Json]:
    wanted = pa.array(sorted(latents), type=pa.int64())
    rows: list[Json] = table.filter(pc.is_in(table.column("latent"), value_set=wanted)).to_pylist()
    return rows
