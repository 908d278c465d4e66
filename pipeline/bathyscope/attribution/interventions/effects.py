"""What interventions do to one forward: logits before and after, and their side effects.

    ΔCE[t] = -log p'(token t+1) + log p(token t+1)
    KL[t]  = Σ_v p(v) (log p(v) - log p'(v))

p are the clean model's probabilities at position t, p' those with the interventions; nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bathyscope.attribution.interventions.checks import check_length
from bathyscope.attribution.interventions.inputs import logits_of, to_model
from bathyscope.attribution.interventions.intervention import Intervention
from bathyscope.attribution.interventions.splice import intervened
from bathyscope.metrics.splice import CLEAN, DocumentLosses, TokenLosses, next_tokens
from bathyscope.metrics.splice import position_losses as losses_of
from bathyscope.values import FloatArray


class Forwards(NamedTuple):
    """Logits of the same tokens, both [batch, positions, vocabulary]."""

    clean: Tensor
    changed: Tensor


@dataclass(frozen=True)
class Prediction:
    """A next token with its probability before and after."""

    token: int
    clean: float
    changed: float


@dataclass(frozen=True)
class Effect:
    """What interventions do to the predictions along one text."""

    tokens: tuple[int, ...]
    clean_ce: FloatArray
    """Nats [positions - 1]: position t predicts token t + 1."""
    changed_ce: FloatArray
    kl: FloatArray
    """Nats [positions]."""
    before: tuple[Prediction, ...]
    """The clean model's most probable tokens after the text, most probable first."""
    after: tuple[Prediction, ...]
    """The changed model's."""

    @property
    def delta_ce(self) -> FloatArray:
        """ΔCE in nats [positions - 1]."""
        difference: NDArray[np.float64] = self.changed_ce - self.clean_ce
        return difference

    @property
    def mean_delta_ce(self) -> float | None:
        """Its mean; None for a text of one token, in which nothing is predicted."""
        return float(self.delta_ce.mean()) if len(self.delta_ce) else None

    @property
    def mean_kl(self) -> float:
        """KL(clean ‖ changed) in nats, the mean over positions."""
        return float(self.kl.mean())


@torch.no_grad()
def forward(model: nn.Module, tokens: Tensor, interventions: Sequence[Intervention]) -> Forwards:
    """Logits of tokens int64 [batch, positions] without and with interventions.

    Raises what `check_interventions` and `check_length` raise.
    """
    check_length(model, tokens.shape[1])
    with intervened(model, interventions):
        changed = logits_of(model, tokens)
    return Forwards(logits_of(model, tokens), changed)


@torch.no_grad()
def effect(
    model: nn.Module,
    tokens: Tensor,
    interventions: Sequence[Intervention],
    *,
    top: int = 5,
    clean: Tensor | None = None,
) -> Effect:
    """What interventions do to the predictions along tokens int64 [positions].

    `clean` are the clean logits [positions, vocabulary], where they are known already.
    Raises `NonFiniteError` for logits that are not finite, and what `forward` raises.
    """
    check_length(model, len(tokens))
    tokens = to_model(model, tokens)
    if clean is None:
        clean = clean_logits(model, tokens)
    with intervened(model, interventions):
        changed = logits_of(model, tokens[None])[0]
    clean_ce, _ = losses_of(clean, clean, tokens)
    changed_ce, kl = losses_of(changed, clean, tokens)
    before, after = (torch.softmax(logits[-1].double(), -1).cpu() for logits in (clean, changed))
    return Effect(
        tuple(tokens.tolist()),
        clean_ce.numpy(),
        changed_ce.numpy(),
        kl.numpy(),
        *(_top(order, before, after, top) for order in (before, after)),
    )


@torch.no_grad()
def clean_logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """The model's own logits [positions, vocabulary] for tokens int64 [positions]."""
    return logits_of(model, tokens[None])[0]


@torch.no_grad()
def side_effects(
    model: nn.Module,
    variants: Mapping[str, Sequence[Intervention]],
    *,
    tokens: Tensor,
    keep: Tensor,
    documents: Tensor,
    batch_items: int,
) -> dict[str, DocumentLosses]:
    """Losses over texts without interventions ("clean") and with those of each variant.

    tokens int64, keep bool and documents int64 are all [items, positions]. Interventions are made
    at every kept position, whatever positions they were given; the others stay clean and leave the
    averages. Memory is bounded by the logits of `batch_items` sequences, twice.
    """
    losses = TokenLosses()
    for batch in torch.arange(len(tokens)).split(batch_items):
        here = to_model(model, tokens[batch])
        targets, counted = next_tokens(here, keep[batch].to(here.device))
        shared = {
            "targets": targets,
            "keep": counted,
            "documents": documents[batch].to(here.device),
        }
        clean = logits_of(model, here)
        losses.update(CLEAN, logits=clean, clean_logits=clean, **shared)
        for name, interventions in variants.items():
            everywhere = [each.everywhere() for each in interventions]
            with intervened(model, everywhere, keep=keep[batch]):
                changed = logits_of(model, here)
            losses.update(name, logits=changed, clean_logits=clean, **shared)
    return losses.results()


def _top(order: Tensor, before: Tensor, after: Tensor, top: int) -> tuple[Prediction, ...]:
    chosen = order.topk(min(top, len(order))).indices.tolist()
    return tuple(Prediction(i, float(before[i]), float(after[i])) for i in chosen)
