"""The figures of an attribution graph, as a table of prompts has them."""

from __future__ import annotations

from bathyscope.attribution.graphs.bounds import influence_bounds, score_bounds
from bathyscope.attribution.graphs.build import AttributionGraph
from bathyscope.attribution.graphs.order import Order
from bathyscope.attribution.graphs.prune import Pruned
from bathyscope.attribution.graphs.pruned_scores import pruned_influence, pruned_scores
from bathyscope.attribution.graphs.scores import Scores, scores_of
from bathyscope.pages.graph_data import Score
from bathyscope.values import Json

DEFINITIONS = {
    "replacement": "I_tokens / (I_tokens + I_errors), I the influence on the explained logits",
    "completeness": "1 - I_errors / Σ (I + p), of all nodes",
    "pruned": "the same of the pruned graph, what removed latents give counted as error",
    "missing": "largest |Σ of a row - what its target reads| / Σ |entries of the row|",
    "frozen_error": (
        "largest |real change + A[t, s]| / largest |A[t, s]|, latents s taken away one at a time "
        "with patterns, norm scales and MLP outputs held"
    ),
    "logits": "changes of logits in the model as it is against those along all paths of the graph",
}


_MEANINGS = {
    "replacement": "of the influence that ends in tokens or errors, the share that ends in tokens",
    "completeness": "share of what goes into nodes, by influence, that does not come from errors",
}


def figures_of(found: AttributionGraph, pruned: Pruned, order: Order) -> Json:
    """Sizes, scores before and after pruning, and bounds where the graph was truncated."""
    graph = found.graph
    kept = pruned.nodes[graph.latents]
    scores = scores_of(graph, pruned.influence.nodes)
    folded = pruned_influence(graph, order, kept, found.error_of_latent())
    after = pruned_scores(graph, order, folded)
    figures: Json = {
        "active_latents": found.num_active,
        "latents": graph.num_latents,
        "errors": graph.num_errors,
        "logits": graph.num_logits,
        "edges": graph.num_edges,
        "kept_latents": int(kept.sum()),
        "kept_edges": len(pruned.edges.positions()),
        "missing": found.missing,
        "replacement": _number(scores.replacement),
        "completeness": _number(scores.completeness),
        "pruned": _named(after.found),
    }
    if graph.dropped is not None:
        bounds = score_bounds(graph, order, influence_bounds(graph, order).low)
        figures["bounds"] = {"low": _named(bounds.low), "up": _named(bounds.up)}
        figures["pruned_bounds"] = {"low": _named(after.low), "up": _named(after.up)}
    return figures


def graph_scores(figures: Json) -> list[Score]:
    """Both scores of `figures_of` as the page shows them: whole, pruned, and their bounds."""
    bounds = figures.get("bounds")
    return [
        Score(
            name.capitalize(),
            figures[name],
            figures["pruned"][name],
            None if bounds is None else (bounds["low"][name], bounds["up"][name]),
            meaning,
        )
        for name, meaning in _MEANINGS.items()
    ]


def _named(scores: Scores) -> Json:
    return {
        "replacement": _number(scores.replacement),
        "completeness": _number(scores.completeness),
    }


def _number(value: float) -> float | None:
    return None if value != value else float(value)
