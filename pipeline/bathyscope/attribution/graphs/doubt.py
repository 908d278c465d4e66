"""What pruning the whole graph surely keeps, and what it may, seen from a truncated one.

Bounds on influence give bounds on the node threshold, and with them nodes that are sure and nodes
that are possible. Between these two sets lies the whole graph's own, so its row sums and the
influence over it have bounds again, every edge's score too, and so the edge threshold. Removing
what is unconnected only removes more when there are fewer edges: from the sure edges it leaves what
is surely left, from the possible ones what may be.

So however the truncated graph itself is pruned, the Jaccard index with the whole graph's pruning is
at least what it shares with the sure set, over it and the possible set together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bathyscope.attribution.graphs.blocks import Block, row_blocks
from bathyscope.attribution.graphs.bounds import (
    Bounds,
    ScoreBounds,
    dropped_of,
    influence_bounds,
    score_bounds,
    upper_influence,
)
from bathyscope.attribution.graphs.bracket import Bracket, Interval
from bathyscope.attribution.graphs.edge_mask import EdgeMask
from bathyscope.attribution.graphs.graph import Bools, Floats, Graph
from bathyscope.attribution.graphs.influence import SMALLEST_SUM, lower_influence
from bathyscope.attribution.graphs.order import Order
from bathyscope.attribution.graphs.prune import EdgePredicate, connected

_NODE_BITS, _EDGE_BITS = 12, 9
_ROUNDING = 1e-10


class Doubt(NamedTuple):
    """What is sure and what is possible about the pruned whole graph."""

    sure_nodes: Bools
    possible_nodes: Bools
    sure_edges: EdgeMask
    """Among the kept entries."""
    possible_edges: EdgeMask
    """Among the kept entries."""
    hidden_edges: int
    """The most edges of the pruned whole graph that truncation dropped."""

    influence: Bounds
    """Of all nodes before pruning [n]."""
    scores: ScoreBounds
    """Of the whole graph."""

    def node_jaccard(self, nodes: Bools) -> float:
        """The least Jaccard index of kept nodes [n] with those of the whole graph."""
        either = int((self.possible_nodes | nodes).sum())
        return int((self.sure_nodes & nodes).sum()) / max(either, 1)

    def edge_jaccard(self, edges: EdgeMask) -> float:
        """The least Jaccard index of kept edges with those of the whole graph."""
        either = self.possible_edges.count + edges.count - self.possible_edges.count_both(edges)
        either += self.hidden_edges
        return self.sure_edges.count_both(edges) / either if either else 1.0


class _Sums(NamedTuple):
    """Bounds of row sums over the nodes that pruning keeps."""

    low: Floats
    """Of entries from sure nodes [n]."""
    up: Floats
    """With those from possible nodes and what can have been dropped from these [n]."""
    dropped: Floats
    """The most that was dropped from possible nodes [n]."""


class _Kept(NamedTuple):
    """What is known of the graph of the nodes over the node threshold."""

    graph: Graph
    sure: Bools
    possible: Bools
    sums: _Sums
    through: Bounds
    """Influence + p of nodes, if they are kept."""
    influence: Bounds
    """Before nodes are removed."""


def doubt_of(
    graph: Graph, order: Order, *, node_threshold: float = 0.8, edge_threshold: float = 0.98
) -> Doubt:
    """Compare pruning a truncated graph with pruning the whole one, without having it.

    Thresholds as for `prune`. Raises `GraphError` for a graph that is not truncated.
    """
    kept = _kept(graph, order, node_threshold)
    interval, largest_dropped = _edge_interval(kept, edge_threshold)

    def surely(block: Block) -> Bools:
        found: Bools = _edge_bounds(kept, block).low >= interval.sure
        return found

    def possibly(block: Block) -> Bools:
        up = _edge_bounds(kept, block).up
        found: Bools = (up >= interval.least) & (up > 0)
        return found

    sure_nodes, sure_edges = connected(graph, order, kept.sure, surely)
    possible_nodes, possible_edges = connected(graph, order, kept.possible, possibly)
    hidden = _hidden(kept, interval.least, largest_dropped)
    if hidden:
        # A dropped edge may connect any node, so none is surely removed for want of edges.
        possible_nodes, possible_edges = kept.possible, _all(kept, order, possibly)
    scores = score_bounds(graph, order, kept.influence.low)
    return Doubt(
        sure_nodes, possible_nodes, sure_edges, possible_edges, hidden, kept.influence, scores
    )


def _kept(graph: Graph, order: Order, node_threshold: float) -> _Kept:
    bounds = influence_bounds(graph, order)
    bracket = Bracket(max(float(bounds.up.max()), 1e-300), bits=_NODE_BITS)
    bracket.add(*bounds)
    interval = bracket.interval(node_threshold)
    sure = bounds.low >= interval.sure
    possible = (bounds.up >= interval.least) & (bounds.up > 0)
    for nodes in (sure, possible):
        nodes[graph.errors.stop :] = True
    sums = _sums(graph, sure, possible)
    weights = graph.logit_weights()
    up = upper_influence(graph, order, sums=sums.low, add=True, certain=sure, possible=possible)
    low = lower_influence(graph, order, sums.up, sure) * (1 - _ROUNDING)
    return _Kept(graph, sure, possible, sums, Bounds(low + weights, up + weights), bounds)


def _sums(graph: Graph, sure: Bools, possible: Bools) -> _Sums:
    dropped = dropped_of(graph)
    low, up, gone = (np.zeros(graph.num_nodes) for _ in range(3))
    kinds = (graph.latents, graph.errors, graph.tokens)
    most = [int(possible[kind].sum()) for kind in kinds]
    for block in row_blocks(graph, np.flatnonzero(possible)):
        mass, rows = block.mass(), block.rows
        low[rows] = block.sums(mass * sure[block.indices])
        up[rows] = block.sums(mass * possible[block.indices])
        largest = dropped.largest[rows].astype(np.float64)
        gone[rows] = np.minimum(dropped.mass[rows], largest[:, None] * most).sum(axis=1)
    return _Sums(low * (1 - _ROUNDING), (up + gone) * (1 + _ROUNDING), gone)


def _edge_bounds(kept: _Kept, block: Block) -> Bounds:
    """Bounds on the scores of edges [m]; 0 is the lower one where an end may not be kept."""
    mass, rows = block.mass(), block.rows
    sure, possible = kept.sure[block.indices], kept.possible[block.indices]
    rates = kept.through.low[rows] * kept.sure[rows] / np.maximum(kept.sums.up[rows], SMALLEST_SUM)
    low = mass * block.spread(rates) * sure
    # An entry of a node that is not sure is no part of that sum.
    sums = block.spread(kept.sums.low[rows]) + np.where(sure, 0.0, mass)
    up = mass / np.maximum(sums, SMALLEST_SUM) * block.spread(kept.through.up[rows]) * possible
    return Bounds(low, np.maximum(low, up))


def _edge_interval(kept: _Kept, share: float) -> tuple[Interval, Floats]:
    """Bounds of the edge threshold, and of the largest score of a dropped edge of each row [n]."""
    dropped, rows = dropped_of(kept.graph), kept.possible
    largest = dropped.largest.astype(np.float64)
    of_largest, of_all = (
        np.where(rows, kept.through.up * x / np.maximum(kept.sums.low + x, SMALLEST_SUM), 0.0)
        for x in (largest, kept.sums.dropped)
    )
    bracket = Bracket(max(float(kept.through.up.max()), 1e-300), bits=_EDGE_BITS)
    for block in row_blocks(kept.graph, np.flatnonzero(rows & (kept.through.up > 0))):
        bracket.add(*_edge_bounds(kept, block))
    return bracket.interval(share, rest=float(of_all.sum())), of_largest


def _hidden(kept: _Kept, least: float, largest_dropped: Floats) -> int:
    """The most dropped edges that can be over the edge threshold."""
    rows = np.flatnonzero((largest_dropped > 0) & (largest_dropped >= least))
    dropped = dropped_of(kept.graph)
    counts = dropped.counts[rows]
    if least > 0:
        # So many of at least that score have room in what was dropped.
        room = kept.through.up[rows] * kept.sums.dropped[rows] * (1 + _ROUNDING)
        cost = np.maximum(kept.sums.low[rows], SMALLEST_SUM) * least
        counts = np.where(room < counts * cost, np.floor(room / cost), counts)
    return int(counts.sum())


def _all(kept: _Kept, order: Order, possibly: EdgePredicate) -> EdgeMask:
    found = EdgeMask(kept.graph.num_edges)
    for block in row_blocks(kept.graph, np.flatnonzero(kept.possible)):
        found.keep(block.positions()[possibly(block)])
    return found
