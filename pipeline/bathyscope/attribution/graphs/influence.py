"""Influence of nodes on the target logits, by back-substitution.

Â[t, s] = |A[t, s]| / max(Σ_s |A[t, s]|, 1e-10), and influence is p · (Â + Â² + …) with the
probabilities p on the logits, as circuit-tracer defines it. The graph has no cycle, so going over
the targets once from the logits down gives the sum of the whole series: when a target's turn comes,
everything that flows through it is known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bathyscope.attribution.graphs.blocks import Block, row_blocks
from bathyscope.attribution.graphs.graph import Bools, Floats, Graph
from bathyscope.attribution.graphs.order import Order

SMALLEST_SUM = 1e-10
"""Rows whose sum is less are divided by this."""


class Influence(NamedTuple):
    """What flows through nodes, of each unit of probability at the logits."""

    nodes: Floats
    """p · (Â + Â² + …) [n]; 0 on the logits."""
    rates: Floats
    """(influence + p) / row sum of each target [n]: times |A[t, s]|, the score of an edge."""


def influence_of(graph: Graph, order: Order, keep: Bools | None = None) -> Influence:
    """Influence in one pass, over the nodes to `keep` [n] where given.

    Rows are normalised over sources that are kept. In a truncated graph without `keep` they are
    divided by their exact sums, and the result is a lower bound: what dropped entries carry is
    missing.
    """
    weights, nodes = graph.logit_weights(), np.zeros(graph.num_nodes)
    rates = np.zeros(graph.num_nodes)
    for run in order.downward():
        through = nodes + weights
        wanted = through[run] > 0
        if keep is not None:
            wanted &= keep[run]
        for block in row_blocks(graph, run[wanted]):
            mass = block.mass()
            if keep is not None:
                mass *= keep[block.indices]
            if graph.dropped is not None and keep is None:
                sums = graph.dropped.row_sums[block.rows]
            else:
                sums = block.sums(mass)
            rates[block.rows] = through[block.rows] / np.maximum(sums, SMALLEST_SUM)
            mass *= block.spread(rates[block.rows])
            nodes += np.bincount(block.indices, weights=mass, minlength=graph.num_nodes)
    return Influence(nodes, rates)


def edge_scores(block: Block, rates: Floats, keep: Bools) -> Floats:
    """Scores Â[t, s] · (influence[t] + p[t]) of edges [m], 0 where the source is not kept."""
    scores = block.mass()
    scores *= block.spread(rates[block.rows])
    scores *= keep[block.indices]
    return scores
