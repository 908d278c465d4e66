"""Activations that means and resampled rows are taken from: a model's own, over given texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bathyscope.attribution.interventions.inputs import to_model
from bathyscope.attribution.interventions.intervention import (
    AtHookPoint,
    AttentionHeads,
    Intervention,
    Latents,
    Target,
)
from bathyscope.models.capture import Capture
from bathyscope.models.heads import heads_of
from bathyscope.models.hook_points import HookPoint, resolve


@torch.no_grad()
def with_reference(
    model: nn.Module,
    interventions: Sequence[Intervention],
    *,
    tokens: Tensor,
    keep: Tensor,
    batch_items: int,
) -> list[Intervention]:
    """The interventions, those that want activations with the model's over these texts.

    tokens int64 and keep bool are [items, positions]; only kept positions give rows. Rows stay on
    the CPU, in float32: items · positions · d numbers for each such intervention.
    """
    wanting = {
        n: _points(model, e.target) for n, e in enumerate(interventions) if e.wants_activations
    }
    if not wanting:
        return list(interventions)
    points = {point.name: point for some in wanting.values() for point in some}
    rows: dict[str, list[Tensor]] = {name: [] for name in points}
    with Capture(model, list(points.values())) as capture:
        for batch in torch.arange(len(tokens)).split(batch_items):
            inputs = {"input_ids": to_model(model, tokens[batch]), "use_cache": False}
            for name, tensor in capture(inputs).items():
                rows[name].append(tensor.float().cpu()[keep[batch]])
    whole = {name: torch.cat(parts) for name, parts in rows.items()}
    return [
        each.with_activations(torch.cat([whole[point.name] for point in wanting[n]], dim=1))
        if n in wanting
        else each
        for n, each in enumerate(interventions)
    ]


def _points(model: nn.Module, target: Target) -> list[HookPoint]:
    """What a target's values are computed from."""
    if isinstance(target, Latents):
        return [resolve(model, block.hook_point) for block in target.dictionary.inputs]
    if isinstance(target, AttentionHeads):
        return [heads_of(model, target.layer).hook_point]
    assert isinstance(target, AtHookPoint)
    return [resolve(model, target.hook_point)]
