"""Activation patching: the metric's real change when one node takes its corrupted value.

    m(do(n = n')) - m(clean),   one forward row per node

Rows of a forward are the whole batch of pairs some times over, and each copy of a pair patches
another node of it. So a metric sees the pairs in their order. Blocks before the node are passed
over, since nothing changes there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope.attribution.nodes.bound import Nodes
from bathyscope.attribution.nodes.contrasts import Contrast, Scores
from bathyscope.attribution.nodes.forward import traced
from bathyscope.attribution.nodes.metrics import evaluated, require_finite
from bathyscope.attribution.nodes.pairs import repeated


def exact_patching(contrast: Contrast, *, rows_per_forward: int = 32) -> Scores:
    """Patch every node by itself.

    A forward has `rows_per_forward` rows, or one row per pair where that is more.
    """
    values = [
        exact_effects(contrast, nodes, torch.arange(len(nodes.table)), rows_per_forward)
        for nodes in contrast.nodes
    ]
    return Scores("exact", contrast, values)


@torch.no_grad()
def exact_effects(
    contrast: Contrast, nodes: Nodes, which: Tensor, rows_per_forward: int = 32
) -> Tensor:
    """The exact effects of some nodes of a set, [len(which)]."""
    size = len(contrast.pairs)
    pair = nodes.table.pair.cpu()[which]
    turn = _turns(pair, size)
    per_forward = max(1, rows_per_forward // size)
    effects = contrast.clean_metric.new_zeros(len(which))
    for first in range(0, int(turn.max()) + 1 if len(turn) else 0, per_forward):
        chosen = ((turn >= first) & (turn < first + per_forward)).nonzero()[:, 0]
        groups = int(turn[chosen].max()) - first + 1
        rows = (turn[chosen] - first) * size + pair[chosen]
        metric = patched_metric(contrast, nodes, rows, which[chosen], groups)
        change = (metric - contrast.clean_metric).flatten()
        effects[chosen.to(change.device)] = change[rows.to(change.device)]
    return require_finite("The metric of a patched forward", effects)


def patched_metric(
    contrast: Contrast, nodes: Nodes, rows: Tensor, which: Tensor, groups: int
) -> Tensor:
    """The metric [groups, pairs] where row rows[i] of the repeated batch patches node which[i]."""
    inputs = repeated(contrast.pairs.clean, groups)
    device = nodes.table.pair.device
    rows, which = rows.to(device), which.to(device)
    with contrast.resumed(nodes.place, groups):
        trace = traced(
            contrast.model, inputs, changes={nodes.place: lambda x: nodes.patched(x, rows, which)}
        )
    return evaluated(contrast.metric, trace.logits, len(contrast.pairs))


def _turns(pair: Tensor, pairs: int) -> Tensor:
    """How many nodes of the same pair come before each."""
    counts = torch.bincount(pair, minlength=pairs)
    order = pair.argsort(stable=True)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    turns = torch.empty_like(pair)
    turns[order] = torch.arange(len(pair)) - starts
    return turns
