"""The tables of a graph, written as Parquet and read back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from bathyscope.runs.graph_tables import BIASES_SCHEMA, EDGES_SCHEMA, NODES_SCHEMA, graph_tables
from bathyscope.runs.tables import from_parquet, to_parquet
from graph_case import graph_case


def test_tables_come_back_as_they_were() -> None:
    case = graph_case("cross_layer_transcoder")
    tables = graph_tables(*case.columns)
    schemas = {"nodes": NODES_SCHEMA, "edges": EDGES_SCHEMA, "biases": BIASES_SCHEMA}
    assert set(tables) == set(schemas)
    for name, table in tables.items():
        back = from_parquet(to_parquet(table))
        assert back.schema.equals(schemas[name], check_metadata=False)
        assert back.schema.field(0).metadata == schemas[name].field(0).metadata
        # Not equals: NaN is there, and is not equal to itself.
        assert repr(back.to_pydict()) == repr(table.to_pydict())
    nodes = tables["nodes"]
    assert nodes.column("node").to_pylist() == list(range(case.graph.graph.num_nodes))
    assert nodes.column("id").to_pylist() == case.columns.nodes["id"]
    assert nodes.column("kept").to_numpy().sum() == case.pruned.nodes.sum()
    assert tables["edges"].num_rows == case.pruned.edges.count
    # NaN is a value here, and not missing.
    assert nodes.column("activation").null_count == 0
    assert (
        np.isnan(nodes.column("activation").to_numpy()).sum()
        == len(nodes) - case.graph.graph.num_latents
    )


def test_a_lone_byte_in_a_text() -> None:
    case = graph_case()
    texts = graph_tables(*case.columns)["nodes"].column("text").to_pylist()
    assert "�" in texts
    assert "\U0001f9ed" in texts
    assert "\udcff" not in texts


def test_a_graph_without_edges() -> None:
    case = graph_case(node_threshold=0.0, edge_threshold=0.0, most_latents=1)
    tables = graph_tables(*case.columns)
    assert tables["edges"].schema.field("weight").type == pa.float32()
    assert len(from_parquet(to_parquet(tables["nodes"]))) == case.graph.graph.num_nodes


def test_columns_of_different_lengths_are_refused() -> None:
    case = graph_case()
    edges = dict(case.columns.edges, weight=case.columns.edges["weight"][1:])
    with pytest.raises(pa.ArrowInvalid):
        graph_tables(case.columns.nodes, edges, case.columns.biases)
