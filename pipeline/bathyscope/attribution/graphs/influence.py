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
from bathyscope.attribution.graphs.spread import Spread

SMALLEST_SUM = 1e-10
"""Rows whose sum is less are divided by this."""


class Influence(NamedTuple):
    """What flows through nodes, of each unit of probability at the logits."""

    nodes: Floats
    """p · (Â + Â² + …) [n]; 0 on the logits."""
    rates: Floats
    """(influence + p) / row sum of each target [n]: times |A[t, s]|, the score of an edge."""
    dropped: float
    """Scores of all edges that truncation dropped, together; 0 in an exact graph."""


def influence_of(graph: Graph, order: Order, keep: Bools | None = None) -> Influence:
    """Influence in one pass, over the nodes to `keep` [n] where given.

    Rows are normalised over sources that are kept. In a truncated graph each target's dropped mass
    is spread over the sources where it can have been (`spread`), which is an estimate; `bounds`
    says how far the whole graph can be from it.
    """
    weights, nodes = graph.logit_weights(), np.zeros(graph.num_nodes)
    rates, total = np.zeros(graph.num_nodes), 0.0
    spread = None
    if graph.dropped is not None:
        propensity = graph.dropped.propensity
        spread = Spread(graph, graph.dropped, propensity=propensity, keep=keep)
    for run in order.downward():
        if spread is not None:
            nodes[run] += spread.at(run)
        through = nodes + weights
        wanted = through[run] > 0
        if keep is not None:
            wanted &= keep[run]
        for block in row_blocks(graph, run[wanted]):
            mass = block.mass()
            if keep is not None:
                mass *= keep[block.indices]
            sums = block.sums(mass)
            if spread is not None:
                each, missing = _spread_mass(graph, spread, block)
                sums += missing
            rates[block.rows] = through[block.rows] / np.maximum(sums, SMALLEST_SUM)
            mass *= block.spread(rates[block.rows])
            nodes += np.bincount(block.indices, weights=mass, minlength=graph.num_nodes)
            if spread is not None:
                spread.add(block, each * rates[block.rows, None])
                total += float(missing @ rates[block.rows])
    if spread is not None:
        ends = np.arange(graph.num_latents, graph.first_logit)
        nodes[ends] += spread.at(ends)
    return Influence(nodes, rates, total)


def lower_influence(graph: Graph, order: Order, sums: Floats, targets: Bools) -> Floats:
    """Influence [n] that kept entries of some targets [n] carry, over given row sums [n]."""
    weights, nodes = graph.logit_weights(), np.zeros(graph.num_nodes)
    for run in order.downward():
        through = nodes + weights
        for block in row_blocks(graph, run[targets[run] & (through[run] > 0)]):
            rates = through[block.rows] / np.maximum(sums[block.rows], SMALLEST_SUM)
            mass = block.mass() * block.spread(rates)
            nodes += np.bincount(block.indices, weights=mass, minlength=graph.num_nodes)
    return nodes


def edge_scores(block: Block, rates: Floats, keep: Bools) -> Floats:
    """Scores Â[t, s] · (influence[t] + p[t]) of edges [m], 0 where the source is not kept."""
    scores = block.mass()
    scores *= block.spread(rates[block.rows])
    scores *= keep[block.indices]
    return scores


def _spread_mass(graph: Graph, spread: Spread, block: Block) -> tuple[Floats, Floats]:
    """Dropped mass per unit of propensity [b, 3], and that of all kept candidates [b]."""
    assert graph.dropped is not None
    every, kept = spread.candidates(block)
    mass = graph.dropped.mass[block.rows]
    each = np.divide(mass, every, out=np.zeros_like(mass), where=every > 0)
    return each, (each * kept).sum(axis=1)
