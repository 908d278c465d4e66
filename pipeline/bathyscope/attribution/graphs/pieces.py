"""Rows of some targets of a graph, which several workers may make, and the whole of them.

Each row is compared with what its target reads, and the memory of the edges is watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bathyscope.attribution.graphs.budget import EDGE_BYTES
from bathyscope.attribution.graphs.gradients import Rows
from bathyscope.attribution.graphs.graph import Dropped, Graph
from bathyscope.attribution.graphs.nodes import Nodes
from bathyscope.attribution.graphs.rows import RowWriter, new_array
from bathyscope.attribution.graphs.spread import propensities
from bathyscope.errors import GraphError


@dataclass(frozen=True)
class Piece:
    """Rows of some targets."""

    targets: Tensor
    """int64 [b], ascending."""
    graph: Graph
    """All nodes, with the rows of these targets alone."""
    biases: Tensor
    """float32 [b, bias nodes]."""
    missing: float
    """The largest share by which the sum of a row missed what its target reads."""


def piece_of(
    found: Iterable[Rows],
    nodes: Nodes,
    num_targets: int,
    *,
    row_share: float | None,
    memory_bytes: int,
    tolerance: float,
    spool: Path | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Piece:
    """Collect rows as they are made.

    Raises `GraphError` for a row that does not add up to what its target reads within the
    tolerance, and where the edges outgrow three quarters of the memory and there is no folder to
    spool them to.
    """
    writer = _writer(nodes, row_share, spool)
    targets, biases, missing, done = [], [], 0.0, 0
    for rows in found:
        missing = max(missing, _checked(rows, tolerance))
        writer.add(rows.targets, rows.values)
        if spool is None:
            _check_size(writer, memory_bytes)
        targets.append(rows.targets.cpu())
        biases.append(rows.biases.cpu())
        done += len(rows.targets)
        progress(done / max(num_targets, 1))
    graph = writer.finish(_probabilities(nodes), partial=True)
    if not targets:
        return Piece(torch.zeros(0, dtype=torch.int64), graph, torch.zeros(0, 0), missing)
    order = torch.cat(targets).argsort()
    return Piece(torch.cat(targets)[order], graph, torch.cat(biases)[order], missing)


def joined(pieces: Sequence[Piece], nodes: Nodes, *, spool: Path | None = None) -> Piece:
    """All rows as one, with entries in files of the folder `spool` where given.

    Raises `GraphError` where a target has no row, or two.
    """
    targets = torch.cat([piece.targets for piece in pieces])
    order = targets.argsort()
    num_latents, first = len(nodes.latents), nodes.num_sources
    wanted = torch.cat([torch.arange(num_latents), first + torch.arange(len(nodes.logits.token))])
    if not torch.equal(targets[order], wanted):
        raise GraphError(
            f"The pieces have {len(targets)} rows, of {len(targets.unique())} targets, and the "
            f"graph has {len(wanted)}: wanted each once. Were they made of one prompt?"
        )
    biases = torch.cat([piece.biases for piece in pieces if len(piece.targets)])[order]
    missing = max(piece.missing for piece in pieces)
    graph = pieces[0].graph if len(pieces) == 1 else _merged([p.graph for p in pieces], spool)
    return Piece(wanted, graph, biases, missing)


def _merged(graphs: Sequence[Graph], spool: Path | None) -> Graph:
    """Each row is in one graph and empty in the others."""
    first = graphs[0]
    lengths = sum(np.diff(graph.indptr) for graph in graphs)
    indptr = np.zeros(len(first.indptr), dtype=np.int64)
    np.cumsum(lengths, out=indptr[1:])
    indices = new_array(int(indptr[-1]), np.int32, spool)
    values = new_array(int(indptr[-1]), np.float32, spool)
    for graph in graphs:
        own = np.diff(graph.indptr)
        # Where an entry goes: its place in its own row, moved to where the row is now.
        shift = np.repeat(indptr[:-1] - graph.indptr[:-1], own)
        places = np.arange(graph.num_edges) + shift
        indices[places], values[places] = graph.indices[:], graph.values[:]
    dropped = None if first.dropped is None else _merged_dropped(graphs)
    counts = (first.num_latents, first.num_errors, first.num_tokens, first.num_logits)
    merged = Graph(indptr, indices, values, *counts, first.logit_probabilities, dropped)
    if dropped is not None:
        dropped.propensity[:] = propensities(merged, dropped)
    return merged


def _merged_dropped(graphs: Sequence[Graph]) -> Dropped:
    each = [graph.dropped for graph in graphs if graph.dropped is not None]
    return Dropped(
        row_sums=np.sum([d.row_sums for d in each], axis=0),
        mass=np.sum([d.mass for d in each], axis=0),
        counts=np.sum([d.counts for d in each], axis=0),
        largest=np.max([d.largest for d in each], axis=0),
        last_latent=np.max([d.last_latent for d in each], axis=0),
        column_shares=np.sum([d.column_shares for d in each], axis=0),
        propensity=np.ones_like(each[0].propensity),
    )


def _writer(nodes: Nodes, row_share: float | None, spool: Path | None) -> RowWriter:
    counts = (
        len(nodes.latents), nodes.num_errors, nodes.num_positions, len(nodes.logits.token)
    )  # fmt: skip
    return RowWriter(*counts, share=row_share, spool=spool)


def _probabilities(nodes: Nodes) -> np.ndarray:
    return nodes.logits.probability.double().cpu().numpy()


def _checked(found: Rows, tolerance: float) -> float:
    worst = float(found.missing.max())
    if not worst <= tolerance:
        row = int(found.missing.argmax())
        raise GraphError(
            f"The row of node {int(found.targets[row])} adds up to something else than its target "
            f"reads: {worst:.2g} of all that went in is missing, and {tolerance:.2g} is allowed. "
            "Load the model in float32 (model.dtype=float32); if it stays, the model has a path "
            "between its parts that is not linear and not known here."
        )
    return worst


def _check_size(writer: RowWriter, memory_bytes: int) -> None:
    held = writer.num_edges * EDGE_BYTES
    if held > memory_bytes * 3 // 4:
        raise GraphError(
            f"The edges so far take {held / 1e9:.2f} GB, and the budget is "
            f"{memory_bytes / 1e9:.2f} GB. Set a smaller attribute.most_latents or "
            "attribute.row_share, name a folder for the edges with attribute.spool, or raise "
            "attribute.memory_bytes."
        )
