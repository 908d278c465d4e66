"""What truncation can have changed: bounds on influence and scores of a truncated graph.

Let K be the kept entries over exact row sums, D the dropped ones, Â = K + D, and I_low the
influence by K alone. Then I - I_low = l · (1 + Â + Â² + …) with l = (I_low + p) · D, what leaks
out of K. No path of an acyclic graph meets a node twice, so a unit of leak that starts at a node
visits any other at most once: I_low <= I <= I_low + (leak of the targets that can lead to it).

That bound lets all leak meet in one node. A second one does not: a dropped entry is at most the
largest dropped one of its row, so replacing D by these maxima at every source that was not kept
(and not after the row's last dropped latent) can only raise influence, and one pass of
back-substitution gives the result. The smaller of both is taken.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bathyscope.attribution.graphs.blocks import row_blocks
from bathyscope.attribution.graphs.graph import Bools, Dropped, Floats, Graph
from bathyscope.attribution.graphs.influence import SMALLEST_SUM, lower_influence
from bathyscope.attribution.graphs.order import Order
from bathyscope.attribution.graphs.scores import Scores
from bathyscope.attribution.graphs.spread import Spread
from bathyscope.errors import GraphError

_ROUNDING = 1e-10
"""Relative room for the rounding of float64 sums."""


class Bounds(NamedTuple):
    """Between these lies what the whole graph has."""

    low: Floats
    up: Floats


class ScoreBounds(NamedTuple):
    """Scores of the kept entries' graph, and between which those of the whole graph lie."""

    low: Scores
    up: Scores


class Leak(NamedTuple):
    """Influence that goes from kept entries into dropped ones: mass · (I_low + p) / row sum."""

    of_targets: Floats
    """By kind of source, latents, errors, tokens [n, 3]."""

    @property
    def latents(self) -> float:
        """Into latents, from where it goes on."""
        return float(self.of_targets[:, 0].sum())

    @property
    def errors(self) -> float:
        """Into errors, where it ends."""
        return float(self.of_targets[:, 1].sum())

    @property
    def tokens(self) -> float:
        """Into tokens, where it ends."""
        return float(self.of_targets[:, 2].sum())


def influence_bounds(graph: Graph, order: Order) -> Bounds:
    """Bounds on the influence of every node [n]. Raises `GraphError` when nothing was truncated."""
    dropped = dropped_of(graph)
    everything = np.ones(graph.num_nodes, dtype=bool)
    low = lower_influence(graph, order, dropped.row_sums, everything) * (1 - _ROUNDING)
    leak = leak_of(graph, low)
    after = np.bincount(
        np.maximum(dropped.last_latent, 0),
        weights=leak.of_targets[:, 0],
        minlength=graph.num_nodes,
    )
    # Leak that starts at a latent up to the target's last dropped one never rises above it.
    up = low + np.cumsum(after[::-1])[::-1]
    up[graph.errors] = low[graph.errors] + leak.latents + leak.errors
    up[graph.tokens] = low[graph.tokens] + leak.latents + leak.tokens
    up[graph.logits] = 0
    by_entries = upper_influence(
        graph, order, sums=dropped.row_sums, add=False, certain=everything, possible=everything
    )
    return Bounds(low, np.maximum(np.minimum(up * (1 + _ROUNDING), by_entries), low))


def score_bounds(graph: Graph, order: Order, low: Floats) -> ScoreBounds:
    """Bounds on both scores, from the lower bound of influence [n].

    Leak into errors and tokens ends there and is known. Leak into latents ends somewhere, in both
    kinds together at most once, and meets at most as many further nodes as there are runs.
    """
    leak = leak_of(graph, low)
    tokens = float(low[graph.tokens].sum()) + leak.tokens
    errors = float(low[graph.errors].sum()) + leak.errors
    through = float(low.sum() + graph.logit_weights().sum() + leak.of_targets.sum())
    more = leak.latents
    with np.errstate(invalid="ignore", divide="ignore"):
        replacement = np.divide([tokens, tokens + more], tokens + errors + more)
        completeness = (
            1 - np.divide(errors + more, through + more),
            1 - np.divide(errors, through + more * order.depth),
        )
    return ScoreBounds(
        Scores(float(replacement[0]), float(completeness[0])),
        Scores(float(replacement[1]), float(completeness[1])),
    )


def leak_of(graph: Graph, low: Floats) -> Leak:
    """The leak of every target, by kind of source, from the lower bound of influence [n]."""
    dropped = dropped_of(graph)
    rates = (low + graph.logit_weights()) / np.maximum(dropped.row_sums, SMALLEST_SUM)
    return Leak(rates[:, None] * dropped.mass)


def upper_influence(
    graph: Graph, order: Order, *, sums: Floats, add: bool, certain: Bools, possible: Bools
) -> Floats:
    """An upper bound on influence [n] over some set of nodes between `certain` and `possible`.

    `sums` [n] are lower bounds of row sums over that set. With `add` they are of kept entries from
    certain nodes only, so that an entry which they leave out makes the true sum larger by itself.
    Dropped entries count as the largest of their row, at every source where they can be.
    """
    dropped = dropped_of(graph)
    weights = graph.logit_weights()
    spread = Spread(graph, dropped)
    flow = np.zeros(graph.num_nodes)
    up = np.zeros(graph.num_nodes)
    for run in order.downward():
        up[run] = flow[run] + spread.at(run, rounding=_ROUNDING)
        through = (up + weights) * (1 + _ROUNDING)
        for block in row_blocks(graph, run[possible[run] & (through[run] > 0)]):
            rows = block.rows
            mass, largest = block.mass(), dropped.largest[rows].astype(np.float64)
            of_kept, of_dropped = block.spread(sums[rows]), sums[rows]
            if add:
                of_kept += np.where(certain[block.indices], 0.0, mass)
                of_dropped = of_dropped + largest
            share = mass / np.maximum(of_kept, SMALLEST_SUM) * block.spread(through[rows])
            flow += np.bincount(block.indices, weights=share, minlength=graph.num_nodes)
            most = np.minimum(largest[:, None], dropped.mass[rows])
            rates = through[rows] / np.maximum(of_dropped, SMALLEST_SUM)
            spread.add(block, most * rates[:, None])
    rest = np.arange(graph.num_latents, graph.first_logit)
    up[rest] = flow[rest] + spread.at(rest, rounding=_ROUNDING)
    up[graph.logits] = 0
    return up * (1 + _ROUNDING)


def dropped_of(graph: Graph) -> Dropped:
    """What the graph has dropped. Raises `GraphError` for an exact graph."""
    if graph.dropped is None:
        raise GraphError(
            "Every edge of this graph was kept, so its influence and scores are exact and need no "
            "bounds. Bounds are for graphs whose rows were written with a share."
        )
    return graph.dropped
