"""Scores of a pruned graph that cannot be better for what was pruned away.

What removed latents give counts as error, as the consortium of attribution graphs does it. In a
truncated graph the rows miss some mass d; then the row of shares is wrong by at most d over the sum
of what is known, in total variation, because dividing by another sum moves no more than is missing.
A walk by the known rows and one by the true ones can be made together so that they part at a target
with at most that probability. The flow that may go astray so, Σ_t (I_t + p_t) · d_t / sum_t,
bounds how far influence on tokens and on errors can be off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bathyscope.attribution.graphs.blocks import Block, row_blocks
from bathyscope.attribution.graphs.graph import Bools, Floats, Graph, Ints
from bathyscope.attribution.graphs.influence import SMALLEST_SUM
from bathyscope.attribution.graphs.order import Order
from bathyscope.attribution.graphs.prune import kept_nodes
from bathyscope.attribution.graphs.scores import Scores, scores_of
from bathyscope.errors import GraphError

_ERROR_CELLS = 2**22


class Folded(NamedTuple):
    """Influence where removed latents count as error."""

    nodes: Floats
    """[n]"""
    astray: float
    """The most flow that dropped entries can lead elsewhere; 0 in an exact graph."""


class ScoreRange(NamedTuple):
    """Scores, and between which those of the whole graph lie; all equal in an exact graph."""

    found: Scores
    low: Scores
    up: Scores


class ScoresAt(NamedTuple):
    """A line of the table of scores over thresholds."""

    node_threshold: float
    num_latents: int
    """Latents that are kept."""
    scores: ScoreRange
    """Of the pruned graph, the removed latents counted as error."""


def pruned_influence(graph: Graph, order: Order, kept: Bools, error_of_latent: Ints) -> Folded:
    """Influence where what removed latents give counts as error.

    `kept` [latents] says which latents stay. To the rows of the others' targets, A[t, s] of a
    removed latent is added, with its sign, at the error of its layer and position,
    `error_of_latent` [latents] (0 to errors - 1), before absolute values and normalisation: what
    is pruned away is not explained, so pruning cannot make the scores better for free. Of a
    truncated graph it is that of the kept entries alone. Raises `GraphError` for lengths or errors
    that do not fit.
    """
    _check(graph, kept, error_of_latent)
    weights, nodes, astray = graph.logit_weights(), np.zeros(graph.num_nodes), 0.0
    stays = np.ones(graph.num_nodes, dtype=bool)
    stays[graph.latents] = kept
    max_rows = max(1, _ERROR_CELLS // max(graph.num_errors, 1))
    for run in order.downward():
        through = nodes + weights
        rows = run[stays[run] & (through[run] > 0)]
        for block in row_blocks(graph, rows, max_rows=max_rows):
            errors, mass = _folded(graph, block, stays, error_of_latent)
            sums = np.maximum(errors.sum(axis=1) + block.sums(mass), SMALLEST_SUM)
            rates = through[block.rows] / sums
            if graph.dropped is not None:
                gone = graph.dropped.mass[block.rows].sum(axis=1)
                astray += float(through[block.rows] @ np.minimum(gone / sums, 1.0))
            mass *= block.spread(rates)
            nodes += np.bincount(block.indices, weights=mass, minlength=graph.num_nodes)
            nodes[graph.errors] += rates @ errors
    return Folded(nodes, astray)


def pruned_scores(graph: Graph, order: Order, folded: Folded) -> ScoreRange:
    """The scores of a pruned graph, and bounds where it is truncated."""
    found = scores_of(graph, folded.nodes)
    tokens = float(folded.nodes[graph.tokens].sum())
    errors = float(folded.nodes[graph.errors].sum())
    through = float(folded.nodes.sum() + graph.logit_weights().sum())
    astray, further = folded.astray, folded.astray * order.depth
    if not astray:
        return ScoreRange(found, found, found)
    fewer, more = max(tokens - astray, 0.0), tokens + astray
    clean, dirty = max(errors - astray, 0.0), errors + astray
    low = Scores(fewer / (fewer + dirty), max(1 - dirty / max(through - further, dirty), 0.0))
    return ScoreRange(found, low, Scores(more / (more + clean), 1 - clean / (through + further)))


def scores_over_thresholds(
    graph: Graph,
    order: Order,
    influence: Floats,
    error_of_latent: Ints,
    thresholds: Sequence[float],
) -> list[ScoresAt]:
    """Scores of the graph pruned at each node threshold; one pass over the edges for each."""
    table = []
    for threshold in thresholds:
        kept = kept_nodes(graph, influence, threshold)[graph.latents]
        folded = pruned_influence(graph, order, kept, error_of_latent)
        line = pruned_scores(graph, order, folded)
        table.append(ScoresAt(threshold, int(kept.sum()), line))
    return table


def _folded(
    graph: Graph, block: Block, stays: Bools, error_of_latent: Ints
) -> tuple[Floats, Floats]:
    """|A| at the errors of each row [b, errors], removed latents added; and at the rest [m]."""
    rows = block.spread(np.arange(len(block.rows)))
    error = block.indices.astype(np.int64) - graph.num_latents
    removed = ~stays[block.indices]
    error[removed] = error_of_latent[block.indices[removed]]
    is_error = (error >= 0) & (error < graph.num_errors)
    cells = rows[is_error] * graph.num_errors + error[is_error]
    folded = np.bincount(
        cells, weights=block.values[is_error], minlength=len(block.rows) * graph.num_errors
    )
    mass = block.mass()
    mass[is_error] = 0.0
    return np.abs(folded).reshape(len(block.rows), graph.num_errors), mass


def _check(graph: Graph, kept: Bools, error_of_latent: Ints) -> None:
    for name, given in [("kept", kept), ("error_of_latent", error_of_latent)]:
        if given.shape != (graph.num_latents,):
            raise GraphError(
                f"{name} has shape {given.shape}; wanted one for each of {graph.num_latents} "
                "latents."
            )
    if len(error_of_latent) and not (
        error_of_latent.min() >= 0 and error_of_latent.max() < graph.num_errors
    ):
        raise GraphError(
            f"error_of_latent runs from {error_of_latent.min()} to {error_of_latent.max()}; the "
            f"graph has errors 0 to {graph.num_errors - 1}. It is layer · positions + position."
        )
