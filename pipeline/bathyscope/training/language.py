"""Trains a small language model on batches that follow from the number of the step alone.

AdamW (Loshchilov and Hutter 2019) with a rate that grows, stays and falls. What a step does follows
from the state before it and its number, so a training that goes on from a state ends as if it had
never stopped: to the bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bathyscope.errors import NonFiniteError
from bathyscope.training.schedule import make_schedule

_BETAS = (0.9, 0.95)
_BEST = "best/"
_MODEL = "model/"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_EVALUATED_ITEMS = 16
"""Sequences of a forward without gradients: bounds the memory of logits."""


class Sequences(Protocol):
    """Token sequences by step."""

    def batch(self, step: int) -> Tensor:
        """Token ids [sequences, P] of a step."""
        ...


@dataclass(frozen=True)
class LanguagePlan:
    """How long and how fast to train."""

    num_steps: int
    lr: float
    warmup_share: float
    decay_share: float
    weight_decay: float
    clip_norm: float
    evaluated: frozenset[int]
    """Steps after which the held-out loss is measured."""
    saved: frozenset[int]
    """Steps after which a checkpoint is kept; 0 is the model before the first."""
    patience: int
    """Evaluations without a better held-out loss after which it stops; 0 never stops."""
    bfloat16: bool = False
    """Whether products are computed in bfloat16; weights, moments and losses are float32."""


@dataclass(frozen=True)
class LanguagePoint:
    """One point of the curve. Losses in nats per token."""

    step: int
    tokens: int
    train_loss: float
    """Mean over the steps since the point before."""
    held_out_loss: float
    lr: float
    seconds: float
    """Of training, over all tries, without what a killed try had not stored."""


@dataclass
class LanguageState:
    """What a training goes on from."""

    step: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    curve: list[LanguagePoint] = field(default_factory=list)
    best_step: int = 0
    best_loss: float = math.inf
    since: tuple[float, int] = (0.0, 0)
    """Sum of the training losses since the last point, and their number."""
    seconds: float = 0.0
    stopped: bool = False
    """Whether it ended before its last step, because it got no better."""


def log_spaced(count: int, last: int) -> list[int]:
    """At most `count` whole numbers from 1 to `last` with equal ratios, both ends among them."""
    if count < 2:
        return [last]
    exponents = [place / (count - 1) for place in range(count)]
    return sorted({max(round(last**exponent), 1) for exponent in exponents} | {last})


@torch.no_grad()
def losses(model: nn.Module, sequences: Tensor, *, bfloat16: bool = False) -> Tensor:
    """Cross-entropy of every target [items, P - 1], in nats; the first token is no target.

    `sequences` are token ids [items, P] on the device of the model, which is left in training mode.
    """
    model.eval()
    found = []
    for tokens in sequences.split(_EVALUATED_ITEMS):
        loss = _cross_entropy(model, tokens, reduction="none", bfloat16=bfloat16)
        found.append(loss.view(len(tokens), -1).cpu())
    model.train()
    return torch.cat(found)


class LanguageTraining:
    """One model in training. `state` is what it has after the last step that was done."""

    def __init__(
        self,
        model: nn.Module,
        plan: LanguagePlan,
        *,
        batches: Sequences,
        held_out: Tensor,
        start: LanguageState | None = None,
    ) -> None:
        self.model = model
        self.state = start or LanguageState()
        self._plan = plan
        self._batches = batches
        self._held_out = held_out
        self._optimiser = _adamw(model, plan)
        self._schedule = make_schedule(
            lr=plan.lr,
            num_steps=plan.num_steps,
            warmup_share=plan.warmup_share,
            decay_share=plan.decay_share,
        )
        if self.state.tensors:
            self._load(self.state.tensors)
        self._best = {
            name.removeprefix(_BEST): tensor
            for name, tensor in self.state.tensors.items()
            if name.startswith(_BEST)
        }

    @property
    def finished(self) -> bool:
        """Whether no step is left."""
        return self.state.stopped or self.state.step >= self._plan.num_steps

    def advance(self, clock: Callable[[], float]) -> None:
        """Do one step, and the evaluation that is due after it.

        Raises `NonFiniteError` where the loss is none.
        """
        began = clock()
        state, step = self.state, self.state.step
        rate = self._schedule.at(step)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        tokens = self._batches.batch(step)
        loss = _cross_entropy(self.model, tokens, reduction="mean", bfloat16=self._plan.bfloat16)
        loss.backward()
        if self._plan.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._plan.clip_norm)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteError(
                f"The loss of step {step} is {value}. Lower ladder.lr, or set ladder.clip_norm."
            )
        summed, count = state.since
        state.since = (summed + value, count + 1)
        state.step = step + 1
        if state.step in self._plan.evaluated:
            self._evaluate(tokens.numel(), rate)
        state.seconds += clock() - began
        if state.step in self._plan.evaluated:
            state.curve[-1] = replace(state.curve[-1], seconds=round(state.seconds, 3))

    def best(self) -> dict[str, Tensor]:
        """The weights with the best held-out loss so far."""
        return self._best

    def snapshot(self) -> LanguageState:
        """The state with its tensors, to be stored: weights, moments, and the best weights."""
        tensors = {f"{_MODEL}{name}": p.detach() for name, p in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            moments = self._optimiser.state[parameter]
            tensors |= {f"{kind}/{name}": moments[kind] for kind in _MOMENTS if moments}
        tensors |= {f"{_BEST}{name}": tensor for name, tensor in self._best.items()}
        return replace(self.state, tensors=tensors, curve=list(self.state.curve))

    def _evaluate(self, tokens_per_step: int, rate: float) -> None:
        state, plan = self.state, self._plan
        found = losses(self.model, self._held_out, bfloat16=plan.bfloat16)
        held_out = float(found.double().mean())
        summed, count = state.since
        state.since = (0.0, 0)
        state.curve.append(
            LanguagePoint(
                step=state.step,
                tokens=state.step * tokens_per_step,
                train_loss=summed / count,
                held_out_loss=held_out,
                lr=rate,
                seconds=0.0,
            )
        )
        if held_out < state.best_loss:
            state.best_loss, state.best_step = held_out, state.step
            named = self.model.named_parameters()
            self._best = {name: p.detach().clone() for name, p in named}
        behind = sum(point.step > state.best_step for point in state.curve)
        state.stopped = bool(plan.patience) and behind >= plan.patience

    def _load(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"{_MODEL}{name}"])
                moments = {k: tensors[f"{k}/{name}"] for k in _MOMENTS if f"{k}/{name}" in tensors}
                if moments:
                    # The fused kernel wants the count of steps there as well.
                    self._optimiser.state[parameter] = {
                        kind: value.clone().to(parameter.device) for kind, value in moments.items()
                    }


def decayed(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters with weight decay, and without: matrices have it, gains and biases do not."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in model.parameters():
        (matrices if parameter.ndim >= 2 else rest).append(parameter)
    return matrices, rest


def _adamw(model: nn.Module, plan: LanguagePlan) -> torch.optim.AdamW:
    matrices, rest = decayed(model)
    groups: Sequence[dict[str, Any]] = [
        {"params": matrices, "weight_decay": plan.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(list(groups), lr=plan.lr, betas=_BETAS, fused=True)


def _cross_entropy(model: nn.Module, tokens: Tensor, *, reduction: str, bfloat16: bool) -> Tensor:
    """Of each token given those before it in its sequence; in float32."""
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=bfloat16):
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return F.cross_entropy(
        logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction=reduction
    )
