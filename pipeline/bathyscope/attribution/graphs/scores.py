"""How much of what a graph explains goes through latents rather than errors.

Replacement score: I_tokens / (I_tokens + I_errors), of the influence that ends in tokens and in
errors. Completeness score: Σ_t (1 - Σ_{s in errors} Â[t, s]) · (I_t + p_t) / Σ_t (I_t + p_t). Since
Σ_t Â[t, s] · (I_t + p_t) is the influence of s, it is 1 - I_errors / Σ_t (I_t + p_t), and both
need influence alone.
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
from bathyscope.errors import GraphError

_ERROR_CELLS = 2**22


class Scores(NamedTuple):
    """Both from 0 to 1; NaN where no influence reaches a token or an error."""

    replacement: float
    completeness: float


class ScoresAt(NamedTuple):
    """A line of the table of scores over thresholds."""

    node_threshold: float
    num_latents: int
    """Latents that are kept."""
    scores: Scores
    """Of the pruned graph, the removed latents counted as error."""


def scores_of(graph: Graph, influence: Floats) -> Scores:
    """The scores of a graph from the influence of its nodes [n]."""
    errors, tokens = influence[graph.errors].sum(), influence[graph.tokens].sum()
    through = influence.sum() + graph.logit_weights().sum()
    with np.errstate(invalid="ignore"):
        return Scores(float(tokens / (tokens + errors)), float(1 - errors / through))


def pruned_influence(graph: Graph, order: Order, kept: Bools, error_of_latent: Ints) -> Floats:
    """Influence [n] where what removed latents give counts as error.

    `kept` [latents] says which latents stay. To the rows of the others' targets, A[t, s] of a
    removed latent is added, with its sign, at the error of its layer and position,
    `error_of_latent` [latents] (0 to errors - 1), before absolute values and normalisation: what
    is pruned away is not explained, so pruning cannot make the scores better for free. Raises
    `GraphError` for lengths or errors that do not fit.
    """
    _check(graph, kept, error_of_latent)
    weights, nodes = graph.logit_weights(), np.zeros(graph.num_nodes)
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
            mass *= block.spread(rates)
            nodes += np.bincount(block.indices, weights=mass, minlength=graph.num_nodes)
            nodes[graph.errors] += rates @ errors
    return nodes


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
        pruned = pruned_influence(graph, order, kept, error_of_latent)
        table.append(ScoresAt(threshold, int(kept.sum()), scores_of(graph, pruned)))
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
