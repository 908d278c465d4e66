"""Rows of a truncated graph that pruning must see in full.

A row's tail is small beside the row, but where much influence flows through the target an edge of
the tail can be among those that pruning keeps. Which rows these are is known from the truncated
graph: the largest dropped entry times the rate of its target, a score, reaches the threshold of
edges. They are few. Once they are taken again in full, pruning loses nothing to truncation but
through its estimate of influence.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bathyscope.attribution.graphs.blocks import row_blocks
from bathyscope.attribution.graphs.bounds import dropped_of
from bathyscope.attribution.graphs.graph import Graph, Ints, target_groups
from bathyscope.attribution.graphs.influence import influence_of
from bathyscope.attribution.graphs.order import Order
from bathyscope.attribution.graphs.prune import Pruned, kept_nodes
from bathyscope.attribution.graphs.rows import new_array
from bathyscope.attribution.graphs.spread import propensities

_MARGIN = 0.9
"""Rows are taken as soon as they reach this share of the threshold, as rates are estimates."""
_LEAKIEST = 0.02
"""Share of the targets that are taken because most influence goes into their dropped entries."""


def rows_in_doubt(graph: Graph, order: Order, pruned: Pruned, node_threshold: float = 0.8) -> Ints:
    """The targets whose dropped entries matter to pruning, ascending.

    These may be edges that it keeps, or lead away so much influence that which nodes are kept
    depends on where to. `pruned` is the graph at that node threshold. Raises `GraphError` for a
    graph that is exact.
    """
    dropped = dropped_of(graph)
    keep = kept_nodes(graph, pruned.influence.nodes, node_threshold)
    rates = influence_of(graph, order, keep).rates
    least = _MARGIN * pruned.edge_threshold_score
    chosen = (dropped.counts > 0) & (dropped.largest * rates >= least)
    leak = dropped.mass.sum(axis=1) * pruned.influence.rates
    most = int(_LEAKIEST * np.count_nonzero(dropped.counts))
    chosen[np.argsort(-leak, kind="stable")[:most]] = True
    return np.flatnonzero(chosen & (dropped.counts > 0))


def with_full_rows(graph: Graph, full: Graph, targets: Ints, *, spool: Path | None = None) -> Graph:
    """The truncated graph with the rows of `targets` from `full`, which has them exactly.

    Other rows of `full` do not matter. With `spool` the entries lie in files of that folder.
    """
    dropped = dropped_of(graph)
    taken = np.zeros(graph.num_nodes, dtype=bool)
    taken[targets] = True
    lengths = np.where(taken, np.diff(full.indptr), np.diff(graph.indptr))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices = new_array(int(indptr[-1]), np.int32, spool)
    values = new_array(int(indptr[-1]), np.float32, spool)
    for source, rows in ((graph, np.flatnonzero(~taken)), (full, np.flatnonzero(taken))):
        for block in row_blocks(source, rows):
            ends = np.cumsum(block.lengths)
            within = np.arange(len(block.indices)) - block.spread(ends - block.lengths)
            places = block.spread(indptr[block.rows]) + within
            indices[places], values[places] = block.indices, block.values
    known = replace(
        dropped,
        mass=np.where(taken[:, None], 0.0, dropped.mass),
        counts=np.where(taken, 0, dropped.counts),
        largest=np.where(taken, np.float32(0), dropped.largest),
        last_latent=np.where(taken, -1, dropped.last_latent),
        column_shares=_without(graph, full, np.flatnonzero(taken)),
        propensity=np.zeros_like(dropped.propensity),
    )
    made = replace(graph, indptr=indptr, indices=indices, values=values, dropped=known)
    known.propensity[:] = propensities(made, known)
    return made


def _without(graph: Graph, full: Graph, targets: Ints) -> np.ndarray:
    """Column sums of dropped entries [n, groups] less those of these targets."""
    dropped = dropped_of(graph)
    groups = target_groups(graph.num_latents, graph.num_nodes, dropped.column_shares.shape[1])
    left = dropped.column_shares.copy()
    for target in targets.tolist():
        kept, whole = (
            slice(int(g.indptr[target]), int(g.indptr[target + 1])) for g in (graph, full)
        )
        sources = np.asarray(full.indices[whole])
        gone = ~np.isin(sources, np.asarray(graph.indices[kept]), assume_unique=True)
        mass = np.abs(np.asarray(full.values[whole], dtype=np.float64))[gone]
        left[sources[gone], groups[target]] -= mass / dropped.row_sums[target]
    return np.maximum(left, 0.0)
