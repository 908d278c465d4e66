"""Trainings of one dictionary from several starts, and their held-out FVU on the way.

All take the same rows in the same order at the same rates, which grow for the first steps and then
stay: a rate that falls towards the end would make the loss at any token depend on where the end is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.metrics.reconstruction import Reconstruction
from bathyscope.models.precision import default_device_kind
from bathyscope.stages.hook_columns import AnyBatches, HookColumns, batches_of
from bathyscope.stages.memory import check_trainings
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.second.starts import Start, dictionary_at
from bathyscope.stages.studies.study import Tell
from bathyscope.studies.tokens_to_reach import measured_after
from bathyscope.training.grid import Grid
from bathyscope.training.loop import Plan, Point, Scaled, Trainee, train
from bathyscope.training.step import Step, StepSettings

LEVELS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of the training from scratch whose loss is to be reached."""
_PER_DOUBLING = 1
MOST_HELD_OUT = 8192
"""Held-out tokens that a curve is measured on each time: starts are compared on the same ones."""
_TELL_EVERY = 10
_BLOCK = 4096


class Curve(NamedTuple):
    """Held-out FVU after so many training rows; the first is before any."""

    tokens: list[int]
    fvu: list[float]
    error: str
    """Why the training ended early; empty where it did not."""


class Held(NamedTuple):
    """Held-out rows in the scale of training [n, d]."""

    rows: Tensor

    @torch.no_grad()
    def fvu(self, dictionary: Dictionary) -> float:
        """What the dictionary leaves unexplained of them."""
        sums = Reconstruction(self.rows.shape[1])
        for x in self.rows.split(_BLOCK):
            latents, x_hat = dictionary.reconstruct(x)
            sums.update(x, x_hat, num_active=latents.count)
        return sums.results()["fvu"]


def curves(
    config: Config, opened: OpenedMember, starts: Sequence[Start], tell: Tell
) -> list[Curve]:
    """Train from each start; `config` names the dictionary's size.

    As many at once as a sweep trains. Raises `ConfigError` where these do not fit into memory.
    """
    columns = HookColumns([opened.rows], [opened.rows])
    batches = batches_of(config, columns)
    device = default_device_kind()
    scales, _ = columns.scales_and_mean()
    rows = opened.held_out_rows(min(config.study.splice_tokens, MOST_HELD_OUT))
    held = Held((rows / scales.float()).to(device))
    found: list[Curve] = []
    for first in range(0, len(starts), config.sweep.together):
        some = starts[first : first + config.sweep.together]
        told = part(tell, first / len(starts), len(some) / len(starts))
        found += _together(config, columns, batches, some, held, told)
    return found


def part(tell: Tell, first: float, size: float) -> Tell:
    """Tells of a part of a unit: from `first` on, so large a share of it."""

    def told(share: float, text: str = "") -> None:
        tell(first + size * share, text)

    return told


def _together(
    config: Config,
    columns: HookColumns,
    batches: AnyBatches,
    starts: Sequence[Start],
    held: Held,
    tell: Tell,
) -> list[Curve]:
    check_trainings([config] * len(starts), columns, batches, Grid())
    scales, _ = columns.scales_and_mean()
    plan = plan_of(config)
    device = held.rows.device
    first = batches.batch(plan.seed, 0, 0).float() / scales.float()
    trainees, found = [], []
    marks = measured_after(plan.most_steps, _PER_DOUBLING, LEVELS)
    for number, start in enumerate(starts):
        made = dictionary_at(start, config, columns, first).to(device)
        curve = Curve([0], [held.fvu(made)], "")
        step = Step(made, _settings(config, batches), lr=plan.lr)
        leads = tell if number == 0 else None
        report = partial(_report, made, held, curve, set(marks), batches.batch_rows, leads)
        trainees.append(Trainee(step, plan, report=report))
        found.append(curve)
    train(
        trainees,
        batches,
        scaled=Scaled(trainees[0].step.dictionary, scales),
        device=device,
    )
    return [
        curve._replace(error=str(trainee.error or ""))
        for curve, trainee in zip(found, trainees, strict=True)
    ]


def plan_of(config: Config) -> Plan:
    """How every start is trained: rates grow at first, and do not fall."""
    study = config.study
    return Plan(
        epochs=1,
        lr=study.lr,
        warmup_share=config.train.warmup_share,
        decay_share=0.0,
        seed=config.train.order_seed,
        most_steps=max(study.start_tokens // study.batch_rows, 1),
    )


def _report(
    dictionary: Dictionary,
    held: Held,
    curve: Curve,
    marks: set[int],
    batch_rows: int,
    tell: Tell | None,
    done: int,
    total: int,
    point: Point,
) -> None:
    """Measure after the steps that are marked, and say how far it is."""
    if done in marks:
        curve.tokens.append(done * batch_rows)
        curve.fvu.append(held.fvu(dictionary))
    if tell is not None and (done % _TELL_EVERY == 0 or done == total):
        tell(done / total, f"FVU {point.figures.fvu:.3f}")


def _settings(config: Config, batches: AnyBatches) -> StepSettings:
    settings = config.train
    return StepSettings(
        auxk_weight=settings.auxk_weight,
        dead_after_tokens=max(int(settings.dead_after_epochs * batches.num_rows), 1),
        decoder_norm=settings.decoder_norm,
        seed=config.study.seed,
        clip_norm=settings.clip_norm,
    )
