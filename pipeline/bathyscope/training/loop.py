"""The training loop: batches by step, schedule, curve, checkpoints.

What a batch holds follows from its number alone, so a training goes on from a step's state as if it
had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import NonFiniteError
from bathyscope.stores.prefetch import prefetch
from bathyscope.training.schedule import make_schedule
from bathyscope.training.step import Step, StepFigures


class Batches(Protocol):
    """Shuffled rows by (seed, epoch, step)."""

    batch_rows: int

    def num_steps(self, seed: int, epoch: int) -> int:
        """Whole batches in that epoch."""
        ...

    def batch(self, seed: int, epoch: int, step: int) -> Tensor:
        """Rows [batch_rows, Σ d]: what is read, then what is written, where that differs."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    epochs: int
    lr: float
    warmup_share: float
    decay_share: float
    seed: int
    log_every: int = 10


@dataclass(frozen=True)
class Point:
    """One point of the training curve."""

    step: int
    tokens: int
    figures: StepFigures


class Scaled:
    """Rows of a store as x and y of a dictionary, each column divided by its scale."""

    def __init__(self, dictionary: AnyDictionary, scales: Tensor) -> None:
        self._same = dictionary.writes_what_it_reads
        self._d_in = dictionary.d_in
        wanted = self._d_in if self._same else self._d_in + dictionary.d_out
        assert scales.shape == (wanted,), (scales.shape, wanted)
        self._scales = scales.float()

    @property
    def inputs(self) -> Tensor:
        """The scale of each column that is read [d_in]."""
        return self._scales[: self._d_in]

    @property
    def outputs(self) -> Tensor:
        """The scale of each column that is written [d_out]."""
        return self._scales if self._same else self._scales[self._d_in :]

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x [rows, d_in] and y [rows, d_out] in float32; one tensor where y is x."""
        rows = rows.float() / self._scales.to(rows.device)
        if self._same:
            return rows, rows
        return rows[:, : self._d_in], rows[:, self._d_in :]


Save = Callable[[int, "list[Point]"], None]
"""Keeps the state of the step after so many steps, and the curve so far."""


class Divergence:
    """Notices a training that gets worse and worse: FVU above 1 and four times its smallest."""

    def __init__(self) -> None:
        self._smallest = math.inf

    def check(self, fvu: float) -> None:
        """Raise `NonFiniteError` where that is so."""
        self._smallest = min(self._smallest, fvu)
        if fvu > max(1.0, 4 * self._smallest):
            raise NonFiniteError(
                f"The training diverges: FVU is {fvu:.3g} and was {self._smallest:.3g}. Lower "
                "train.lr, or set train.clip_norm."
            )


def train(
    step: Step,
    batches: Batches,
    *,
    plan: Plan,
    scaled: Scaled,
    device: torch.device | str = "cpu",
    report: Callable[[int, int, Point], None] = lambda done, total, point: None,
    start: int = 0,
    curve: Sequence[Point] = (),
    save: Save | None = None,
    save_every: int = 0,
) -> list[Point]:
    """Train in place and return the curve. `report` gets (steps done, all steps, last point).

    Batches are read ahead, and come to `device`. The first `start` steps have been done, with this
    `curve`, and `step` has their state. `save` is called after every `save_every` steps but the
    last. Raises `NonFiniteError` for a loss that is not finite or grows without bound; it names
    the batch and the last step that was saved.
    """
    sizes = [batches.num_steps(plan.seed, epoch) for epoch in range(plan.epochs)]
    schedule = make_schedule(
        lr=plan.lr,
        num_steps=sum(sizes),
        warmup_share=plan.warmup_share,
        decay_share=plan.decay_share,
    )
    points, saved, divergence = list(curve), start, Divergence()
    steps = [(epoch, step) for epoch, size in enumerate(sizes) for step in range(size)]
    ahead = prefetch(batches, plan.seed, steps[start:], device=device)
    for number, rows in enumerate(ahead, start):
        step.set_lr(schedule.at(number))
        try:
            figures = step.step(*scaled(rows))
            divergence.check(figures.fvu)
        except NonFiniteError as error:
            epoch, inside = steps[number]
            kept = f"step {saved} is saved" if saved else "nothing was saved before"
            raise NonFiniteError(
                f"{error} It was batch {inside} of epoch {epoch}, step {number}; {kept}."
            ) from error
        point = Point(number + 1, (number + 1) * batches.batch_rows, figures)
        if number % plan.log_every == 0 or number + 1 == schedule.num_steps:
            points.append(point)
        report(number + 1, schedule.num_steps, point)
        is_due = save_every > 0 and (number + 1) % save_every == 0
        if save is not None and is_due and number + 1 < schedule.num_steps:
            save(number + 1, points)
            saved = number + 1
    return points
