"""Losses of a model whose activations at one hook point are replaced by reconstructions.

When the hook point is the output of a block, the forward restarts there from stored activations;
otherwise the whole model runs with a splice. Positions that are left out stay clean in every
variant and leave the averages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from bathyscope.evaluation.controls import Reconstruct
from bathyscope.metrics.splice import CLEAN, TokenLosses, next_tokens
from bathyscope.models.hook_points import HookPoint
from bathyscope.models.splice import restart, spliced


class Forward(Protocol):
    """Logits of a batch with the hook point's activations put in place."""

    def __call__(self, tokens: Tensor, activations: Tensor) -> Tensor:
        """tokens [b, p], activations [b, p, d] -> logits [b, p, vocabulary]."""
        ...


@dataclass(frozen=True)
class Restart:
    """Runs the layers after the hook point, from stored activations."""

    tail: nn.Module

    def __call__(self, tokens: Tensor, activations: Tensor) -> Tensor:
        """Logits [b, p, vocabulary]; the tokens are not needed."""
        return restart(self.tail, activations)


@dataclass(frozen=True)
class Splice:
    """Runs the whole model and puts the activations in place at the hook point."""

    model: nn.Module
    hook_point: HookPoint

    def __call__(self, tokens: Tensor, activations: Tensor) -> Tensor:
        """Logits [b, p, vocabulary]."""
        with spliced(self.model, self.hook_point, lambda _: activations):
            logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits


@torch.no_grad()
def add_batch(
    losses: TokenLosses,
    forward: Forward,
    *,
    tokens: Tensor,
    activations: Tensor,
    keep: Tensor,
    documents: Tensor,
    variants: Mapping[str, Reconstruct],
) -> None:
    """Add the clean loss and that of every variant of a batch.

    tokens int64 [b, p], activations [b, p, d], keep bool [b, p], documents int64 [b, p].
    """
    targets, counted = next_tokens(tokens, keep)
    clean = forward(tokens, activations)
    shared = {"targets": targets, "keep": counted, "documents": documents}
    losses.update(CLEAN, logits=clean, clean_logits=clean, **shared)
    for name, reconstruct in variants.items():
        replaced = replace_kept(activations, keep, reconstruct)
        losses.update(name, logits=forward(tokens, replaced), clean_logits=clean, **shared)


def replace_kept(activations: Tensor, keep: Tensor, reconstruct: Reconstruct) -> Tensor:
    """Activations [b, p, d] in float32, the kept rows reconstructed, the others as they were."""
    replaced = activations.float().clone()
    replaced[keep] = reconstruct(replaced[keep])
    return replaced
