"""Attribution patching and integrated gradients: the metric's change to first order.

    AtP_n = <∂m/∂x (clean), Δ_n>                            2 forwards and 1 backward for all nodes
    IG_n  = <1/K Σ_k ∂m/∂x (x + α_k (x' - x)), Δ_n>,        α_k = (k + 1/2) / K

AtP is Nanda 2023, "Attribution Patching". The path of IG goes through the tensor of one place at a
time, so its cost is K forwards and backwards per place; scores at a place whose nodes make up all
of x' - x add up to m(x') - m(x), with an error that falls as 1/K² (midpoint rule).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope.attribution.nodes.contrasts import Contrast, Scores, require_slope
from bathyscope.attribution.nodes.forward import graph_of, traced
from bathyscope.attribution.nodes.metrics import evaluated, wide
from bathyscope.attribution.nodes.pairs import repeated
from bathyscope.attribution.nodes.places import Change, Place
from bathyscope.errors import ConfigError


def attribution_patching(contrast: Contrast) -> Scores:
    """AtP of every node. Raises ConfigError for `kl`, whose gradient is 0 at the clean prompts."""
    require_slope(contrast, "Attribution patching")
    if not contrast.nodes:
        return Scores("atp", contrast, [])
    graph = graph_of(
        contrast.model, contrast.pairs.clean, contrast.places, contrast.metric,
        pairs=len(contrast.pairs),
    )  # fmt: skip
    gradients = graph.gradients(contrast.places)
    return Scores("atp", contrast, [n.dot(gradients[n.place]) for n in contrast.nodes])


def integrated_gradients(
    contrast: Contrast, *, steps: int = 8, rows_per_forward: int = 32
) -> Scores:
    """IG of every node over `steps` midpoints. Raises ConfigError for fewer than one step."""
    if steps < 1:
        raise ConfigError(f"steps is {steps}; integrated gradients need at least 1.")
    gradients = {
        place: _mean_gradient(contrast, place, steps, rows_per_forward) for place in contrast.places
    }
    return Scores("ig", contrast, [n.dot(gradients[n.place]) for n in contrast.nodes])


@torch.no_grad()
def completeness_gap(contrast: Contrast, scores: Scores, place: Place) -> Tensor:
    """Σ of the scores at a place - (m(x') - m(x)), [pairs].

    m(x') is the metric where the whole tensor takes its corrupted value at kept positions. It is
    near 0 for integrated gradients where the nodes make up all of the change.
    """
    pairs = contrast.pairs
    trace = traced(contrast.model, pairs.clean, changes={place: _moved(contrast, place, [1.0])})
    total = evaluated(contrast.metric, trace.logits, len(pairs))[0] - contrast.clean_metric
    summed = torch.zeros_like(total)
    for nodes, values in zip(contrast.nodes, scores.values, strict=True):
        if nodes.place == place:
            summed.index_add_(0, nodes.table.pair.to(summed.device), values.to(summed))
    return summed - total


def _mean_gradient(contrast: Contrast, place: Place, steps: int, rows: int) -> Tensor:
    size = len(contrast.pairs)
    per_forward = max(1, rows // size)
    alphas = [(step + 0.5) / steps for step in range(steps)]
    total: Tensor | None = None
    for first in range(0, steps, per_forward):
        part = alphas[first : first + per_forward]
        inputs = repeated(contrast.pairs.clean, len(part))
        with contrast.resumed(place, len(part)):
            graph = graph_of(
                contrast.model, inputs, [place], contrast.metric, pairs=size,
                changes={place: _moved(contrast, place, part)},
            )  # fmt: skip
        found = graph.gradients([place])[place]
        found = found.to(wide(found))
        summed = found.view(len(part), size, *found.shape[1:]).sum(0)
        total = summed if total is None else total + summed
    assert total is not None
    return total / steps


def _moved(contrast: Contrast, place: Place, alphas: list[float]) -> Change:
    """x + α (x' - x) at kept positions, for one α per copy of the batch."""
    change = contrast.corrupted.tensors[place] - contrast.clean.tensors[place]
    keep = contrast.pairs.keep.to(change.device)
    change = change * keep.view(*keep.shape, *[1] * (change.ndim - 2))
    moves = torch.cat([alpha * change for alpha in alphas])
    return lambda x: x.detach() + moves.to(x.dtype)
