"""A graph taken apart for storage, and put together again around entries that lie elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy.typing as npt

from bathyscope.attribution.graphs.graph import KINDS, Dropped, Entries, Graph

Array = npt.NDArray[Any]


def counts_of(graph: Graph) -> dict[str, int]:
    """`num_latents` and those of the other kinds."""
    return {f"num_{kind}": getattr(graph, f"num_{kind}") for kind in KINDS}


def per_node(graph: Graph) -> dict[str, Array]:
    """Every array that is not per edge: `indptr`, `logit_probabilities`, `dropped_…`."""
    found = {"indptr": graph.indptr, "logit_probabilities": graph.logit_probabilities}
    if graph.dropped is not None:
        found |= {f"dropped_{f.name}": getattr(graph.dropped, f.name) for f in fields(Dropped)}
    return found


def from_parts(
    counts: Mapping[str, int], arrays: Mapping[str, Array], indices: Entries, values: Entries
) -> Graph:
    """The graph of `counts_of` and `per_node`, with its entries wherever they can be read."""
    dropped = {
        f.name: arrays[f"dropped_{f.name}"]
        for f in fields(Dropped)
        if f"dropped_{f.name}" in arrays
    }
    return Graph(
        indptr=arrays["indptr"],
        indices=indices,
        values=values,
        num_latents=counts["num_latents"],
        num_errors=counts["num_errors"],
        num_tokens=counts["num_tokens"],
        num_logits=counts["num_logits"],
        logit_probabilities=arrays["logit_probabilities"],
        dropped=Dropped(**dropped) if dropped else None,
    )
