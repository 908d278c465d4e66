"""Pruning a graph to the nodes and edges through which most of the influence flows.

The definitions are those of circuit-tracer 0.5.0 (`prune_graph`), in float64 and without an array
of nodes squared: some passes over blocks of rows, O(nodes) numbers and a bit per edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from bathyscope.attribution.graphs.blocks import Block, row_blocks
from bathyscope.attribution.graphs.edge_mask import EdgeMask
from bathyscope.attribution.graphs.graph import Bools, Floats, Graph
from bathyscope.attribution.graphs.influence import Influence, edge_scores, influence_of
from bathyscope.attribution.graphs.order import Order, order_of
from bathyscope.attribution.graphs.thresholds import share_threshold
from bathyscope.errors import GraphError

EdgePredicate = Callable[[Block], Bools]
"""Which edges of a block count [m]."""


@dataclass(frozen=True)
class Pruned:
    """What is left of a graph, and the influence of its nodes before anything was removed."""

    nodes: Bools
    """Nodes that are kept [n]; tokens and logits always are."""
    edges: EdgeMask
    """Edges that are kept: `edges.positions()` are places among the graph's entries."""
    influence: Influence
    """Of the graph before pruning."""
    edge_threshold_score: float
    """The least score of an edge that was over the edge threshold."""

    def cumulative_shares(self) -> Floats:
        """Share of all influence that a node and those with more have together [n].

        Small for the most influential node, 1 for the least: what viewers call `influence`. Of
        equal nodes the earlier comes first.
        """
        order = np.argsort(-self.influence.nodes, kind="stable")
        shares = np.empty(len(order))
        running = np.cumsum(self.influence.nodes[order])
        shares[order] = running / max(running[-1], np.finfo(float).tiny)
        return shares


def prune(
    graph: Graph,
    *,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
    order: Order | None = None,
) -> Pruned:
    """Keep nodes with `node_threshold` of the influence, and edges with `edge_threshold` of theirs.

    Nodes: the smallest set of the most influential that has the share, with ties. Edges: the same
    with scores Â[t, s] · (influence[t] + p[t]) of the graph of the kept nodes, rows normalised
    again. Then latents without an incoming or outgoing edge and errors without an outgoing one go,
    until none is left. Tokens and logits stay. Of a truncated graph,
    what was dropped counts in influence, row sums and the sum of all scores, see `influence_of`,
    and is no edge that could stay. Raises `GraphError` for a threshold outside 0 to 1,
    and what `order_of` raises.
    """
    for name, share in [("node_threshold", node_threshold), ("edge_threshold", edge_threshold)]:
        if not 0 <= share <= 1:
            raise GraphError(f"{name} is {share}: wanted a share from 0 to 1.")
    order = order or order_of(graph)
    influence = influence_of(graph, order)
    keep = kept_nodes(graph, influence.nodes, node_threshold)
    _, rates, dropped = influence_of(graph, order, keep)
    rows = np.flatnonzero(keep & (rates > 0))

    def scores() -> Iterator[Floats]:
        return (edge_scores(block, rates, keep) for block in row_blocks(graph, rows))

    threshold = share_threshold(scores, edge_threshold, rest=dropped)

    def over(block: Block) -> Bools:
        found: Bools = edge_scores(block, rates, keep) >= threshold
        return found

    nodes, edges = connected(graph, order, rates > 0, over)
    return Pruned(nodes, edges, influence, threshold)


def kept_nodes(graph: Graph, influence: Floats, share: float) -> Bools:
    """The most influential nodes with that share of influence [n], and all tokens and logits."""
    threshold = share_threshold(lambda: [influence], share)
    keep: Bools = influence >= threshold
    keep[graph.errors.stop :] = True
    return keep


def connected(
    graph: Graph, order: Order, rows: Bools, over: EdgePredicate
) -> tuple[Bools, EdgeMask]:
    """Of the edges into `rows` that are `over`, those on a path to a logit from a token or error.

    What remains is what removing latents without edges on both sides, and errors without outgoing
    ones, comes to in the end. Going up, a latent is supported when an edge from a token, an error
    or a supported latent reaches it. Going down, a supported node stays when it has an edge to one
    that stays. A latent that supports one that stays has that edge itself, so the second pass
    takes nothing from the first, and two passes do what repeating would.
    """
    supported = np.ones(graph.num_nodes, dtype=bool)
    supported[graph.latents] = False
    found = EdgeMask(graph.num_edges)
    for run in order.upward():
        for block in row_blocks(graph, run[rows[run]]):
            kept = over(block) & supported[block.indices]
            supported[block.rows] |= block.any(kept)
            found.keep(block.positions()[kept])
    nodes = np.zeros(graph.num_nodes, dtype=bool)
    nodes[graph.errors.stop :] = True
    edges = EdgeMask(graph.num_edges)
    for run in order.downward():
        for block in row_blocks(graph, run[rows[run] & nodes[run]]):
            positions = block.positions()
            kept = found.at(positions)
            nodes[block.indices[kept]] = True
            edges.keep(positions[kept])
    return nodes, edges
