"""The training loop: batches by step, schedule, curve, checkpoints.

What a batch holds follows from its number alone, so a training goes on from a step's state as if it
had never stopped. Several dictionaries can be trained on the same batches: each has its own rates,
curve and checkpoints, and becomes what it would have become alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Protocol

import torch
from torch import Tensor

from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import NonFiniteError
from bathyscope.stores.prefetch import prefetch
from bathyscope.training.schedule import Schedule, make_schedule
from bathyscope.training.step import Step, StepFigures
from bathyscope.values import Json


class Batches(Protocol):
    """Shuffled rows by (seed, epoch, step)."""

    batch_rows: int
    in_memory: bool
    """Whether the rows are at hand, so that nothing is waited for."""

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
    """The order of rows."""
    log_every: int = 10
    most_steps: int = 0
    """Steps in all, in as many epochs as they take; 0: all of `epochs`."""

    def steps(self, batches: Batches) -> list[tuple[int, int]]:
        """Every (epoch, step), in order."""
        if self.most_steps:
            assert batches.num_steps(self.seed, 0), "an epoch has a step"
            endless = (
                (epoch, step)
                for epoch in count()
                for step in range(batches.num_steps(self.seed, epoch))
            )
            return list(islice(endless, self.most_steps))
        sizes = [batches.num_steps(self.seed, epoch) for epoch in range(self.epochs)]
        return [(epoch, step) for epoch, size in enumerate(sizes) for step in range(size)]

    def schedule(self, num_steps: int) -> Schedule:
        """The learning rate of each step."""
        return make_schedule(
            lr=self.lr,
            num_steps=num_steps,
            warmup_share=self.warmup_share,
            decay_share=self.decay_share,
        )


@dataclass(frozen=True)
class Point:
    """One point of the training curve."""

    step: int
    tokens: int
    figures: StepFigures

    def to_json(self) -> Json:
        """As a checkpoint and the table of the curve have it."""
        return {"step": self.step, "tokens": self.tokens, **self.figures._asdict()}

    @classmethod
    def from_json(cls, record: Json) -> Point:
        """The point that `to_json` gave."""
        figures = {name: float(record[name]) for name in StepFigures._fields}
        return cls(int(record["step"]), int(record["tokens"]), StepFigures(**figures))


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
        # In place where that is a copy already: the rows are the largest thing beside the step.
        rows = rows.to(torch.float32, copy=True).div_(self._scales.to(rows.device))
        if self._same:
            return rows, rows
        return rows[:, : self._d_in], rows[:, self._d_in :]


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


@dataclass
class Trainee:
    """A dictionary under training. Its first `start` steps are done, and `step` has their state."""

    step: Step
    plan: Plan
    start: int = 0
    curve: list[Point] = field(default_factory=list)
    """One point of every `log_every` steps, and the last."""
    report: Callable[[int, int, Point], None] = lambda done, total, point: None
    """Gets steps done, all steps, and the last point."""
    save: Callable[[int, list[Point]], None] | None = None
    """Keeps the state of the step after so many steps, and the curve so far."""
    save_every: int = 0
    """Steps between two calls of `save`; none after the last step."""
    save_after: frozenset[int] = frozenset()
    """Steps after which it is called besides."""
    error: NonFiniteError | None = None
    """Why the training ended early."""
    _divergence: Divergence = field(default_factory=Divergence)
    _saved: int = -1

    def do(
        self, number: int, steps: Sequence[tuple[int, int]], x: Tensor, y: Tensor
    ) -> StepFigures:
        """One step. Raises `NonFiniteError` that names the batch and what was saved."""
        try:
            figures = self.step.step(x, y)
            self._divergence.check(figures.fvu)
        except NonFiniteError as error:
            epoch, inside = steps[number]
            saved = max(self._saved, self.start)
            kept = f"step {saved} is saved" if saved else "nothing was saved before"
            raise NonFiniteError(
                f"{error} It was batch {inside} of epoch {epoch}, step {number}; {kept}."
            ) from error
        return figures

    def after(self, done: int, total: int, tokens: int, figures: StepFigures) -> None:
        """Keep, report and save what a step gave."""
        point = Point(done, tokens, figures)
        if (done - 1) % self.plan.log_every == 0 or done == total:
            self.curve.append(point)
        self.report(done, total, point)
        is_due = (self.save_every > 0 and done % self.save_every == 0) or done in self.save_after
        if self.save is not None and is_due and done < total:
            self.save(done, self.curve)
            self._saved = done


def train(
    trainees: Sequence[Trainee],
    batches: Batches,
    *,
    scaled: Scaled,
    device: torch.device | str = "cpu",
) -> None:
    """Train dictionaries in place, all on the same batches, which are read once.

    Their plans have the same epochs and order of rows; their columns have the same scales. One that
    has done steps already waits for its first. Batches are read ahead, and come to `device`.

    One whose loss is not finite or grows without bound ends alone, with an `error` that names the
    batch and the last step that was saved; nothing more is read when none is left.
    """
    plans = {(t.plan.epochs, t.plan.most_steps, t.plan.seed) for t in trainees}
    assert len(plans) == 1, "one order of rows"
    steps = trainees[0].plan.steps(batches)
    schedules = [trainee.plan.schedule(len(steps)) for trainee in trainees]
    first = min(trainee.start for trainee in trainees)
    # On a CPU whose cores all compute, a reader that waits for nothing only gets in their way.
    depth = 0 if batches.in_memory and torch.device(device).type == "cpu" else 2
    ahead = prefetch(batches, trainees[0].plan.seed, steps[first:], depth=depth, device=device)
    for number, rows in enumerate(ahead, first):
        x, y = scaled(rows)
        for trainee, schedule in zip(trainees, schedules, strict=True):
            if number < trainee.start or trainee.error is not None:
                continue
            trainee.step.set_lr(schedule.at(number))
            try:
                figures = trainee.do(number, steps, x, y)
            except NonFiniteError as error:
                trainee.error = error
                continue
            done = number + 1
            trainee.after(done, len(steps), done * batches.batch_rows, figures)
        if all(trainee.error is not None for trainee in trainees):
            return
