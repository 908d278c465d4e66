"""The training loop: batches by step, schedule, curve. An interrupted training starts again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bathyscope.stores.prefetch import prefetch
from bathyscope.training.schedule import make_schedule
from bathyscope.training.step import StepFigures, TopKStep


class Batches(Protocol):
    """Shuffled rows by (seed, epoch, step)."""

    batch_rows: int

    def num_steps(self, seed: int, epoch: int) -> int:
        """Whole batches in that epoch."""
        ...

    def batch(self, seed: int, epoch: int, step: int) -> Tensor:
        """Rows [batch_rows, d]."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    epochs: int
    lr: float
    warmup_share: float
    decay_share: float
    seed: int
    scale: float
    """Rows are divided by this before they are used."""
    log_every: int = 10


@dataclass(frozen=True)
class Point:
    """One point of the training curve."""

    step: int
    tokens: int
    figures: StepFigures


def train(
    step: TopKStep,
    batches: Batches,
    *,
    plan: Plan,
    device: torch.device | str = "cpu",
    report: Callable[[int, int, Point], None] = lambda done, total, point: None,
) -> list[Point]:
    """Train in place and return the curve. `report` gets (steps done, all steps, last point).

    Batches are read ahead, and come to `device`.
    """
    sizes = [batches.num_steps(plan.seed, epoch) for epoch in range(plan.epochs)]
    schedule = make_schedule(
        lr=plan.lr,
        num_steps=sum(sizes),
        warmup_share=plan.warmup_share,
        decay_share=plan.decay_share,
    )
    curve = []
    steps = [(epoch, step) for epoch, size in enumerate(sizes) for step in range(size)]
    ahead = prefetch(batches, plan.seed, steps, device=device)
    for number, rows in enumerate(ahead):
        step.set_lr(schedule.at(number))
        figures = step.step(rows.float() / plan.scale)
        point = Point(number + 1, (number + 1) * batches.batch_rows, figures)
        if number % plan.log_every == 0 or number + 1 == schedule.num_steps:
            curve.append(point)
        report(number + 1, schedule.num_steps, point)
    return curve
