"""The training loop: batches by step, schedule, curve. An interrupted training starts again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

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
    report: Callable[[int, int, Point], None] = lambda done, total, point: None,
) -> list[Point]:
    """Train in place and return the curve. `report` gets (steps done, all steps, last point)."""
    sizes = [batches.num_steps(plan.seed, epoch) for epoch in range(plan.epochs)]
    schedule = make_schedule(
        lr=plan.lr,
        num_steps=sum(sizes),
        warmup_share=plan.warmup_share,
        decay_share=plan.decay_share,
    )
    curve = []
    for number, rows in enumerate(_stream(batches, plan.seed, sizes)):
        step.set_lr(schedule.at(number))
        figures = step.step(rows.float() / plan.scale)
        point = Point(number + 1, (number + 1) * batches.batch_rows, figures)
        if number % plan.log_every == 0 or number + 1 == schedule.num_steps:
            curve.append(point)
        report(number + 1, schedule.num_steps, point)
    return curve


def _stream(batches: Batches, seed: int, sizes: list[int]) -> Iterator[Tensor]:
    """Every batch in order; the next one is read while the current one is used."""
    order = [(epoch, step) for epoch, size in enumerate(sizes) for step in range(size)]
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = None
        for epoch, step in order:
            ready, ahead = ahead, reader.submit(batches.batch, seed, epoch, step)
            if ready is not None:
                yield ready.result()
        if ahead is not None:
            yield ahead.result()
