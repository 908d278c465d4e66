"""The three Parquet tables of an attribution graph: nodes, edges, biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa


def _field(name: str, kind: pa.DataType, about: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"about": about} if about else None)


NODES_SCHEMA = pa.schema(
    [
        _field("node", pa.int64(), "number in the graph: latents, errors, tokens, logits"),
        _field("kind", pa.string(), "latent, error, token or logit"),
        _field("id", pa.string(), "node_id in the graph's JSON"),
        _field("layer", pa.int64(), "block; -1 for tokens, one past the last block for logits"),
        _field("position", pa.int64()),
        _field("dictionary", pa.string(), "of latents"),
        _field("latent", pa.int64(), "number in the dictionary; -1 for other kinds"),
        _field("index", pa.int64(), "number among the latents that read the layer"),
        _field("hook_point", pa.string(), "that a latent reads, or whose error it is"),
        _field("token", pa.int64(), "of tokens and logits; -1 for other kinds"),
        _field("text", pa.string(), "token at the position, or of the logit"),
        _field("activation", pa.float32(), "of latents; NaN for other kinds"),
        _field("probability", pa.float32(), "of logits; NaN for other kinds"),
        _field("influence", pa.float64(), "p · (Â + Â² + …); before pruning"),
        _field("share", pa.float64(), "of all influence, of it and those with more"),
        _field("kept", pa.bool_(), "whether pruning kept it"),
    ]
)

EDGES_SCHEMA = pa.schema(
    [
        _field("target", pa.int64(), "node"),
        _field("source", pa.int64(), "node"),
        _field("weight", pa.float32(), "A[t, s], signed"),
        _field("score", pa.float64(), "Â[t, s] · (influence[t] + p[t]) among the nodes kept"),
    ]
)

BIASES_SCHEMA = pa.schema(
    [
        _field("target", pa.int64(), "node"),
        _field("bias", pa.string()),
        _field("value", pa.float32(), "what it gives to the target, signed"),
    ]
)


def graph_tables(
    nodes: Mapping[str, Any], edges: Mapping[str, Any], biases: Mapping[str, Any]
) -> dict[str, pa.Table]:
    """The tables of a graph by name, from its columns.

    Edges are those that pruning kept; texts that UTF-8 cannot hold have U+FFFD in the place.
    """
    numbered = {"node": range(len(nodes["id"])), **nodes}
    given = {"nodes": numbered, "edges": edges, "biases": biases}
    schemas = {"nodes": NODES_SCHEMA, "edges": EDGES_SCHEMA, "biases": BIASES_SCHEMA}
    return {name: _table(given[name], schema) for name, schema in schemas.items()}


def _table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    return pa.table({f.name: _array(columns[f.name], f.type) for f in schema}, schema=schema)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if kind == pa.string():
        values = [v.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for v in values]
    return pa.array(values, type=kind, from_pandas=False)
