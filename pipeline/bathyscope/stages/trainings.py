"""Trainings from rows to finished dictionaries: alone, or as one of the processes of a grid.

Each goes on from its last checkpoint: what a step does follows from the state before it and its
number alone. On the same grid the result is the same to the bit, whatever is trained beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch

from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.models.precision import default_device_kind
from bathyscope.stages.checkpoints import Checkpoints
from bathyscope.stages.hook_columns import AnyBatches, HookColumns, batches_of, new_dictionary
from bathyscope.stages.logs import open_log
from bathyscope.stages.memory import check_trainings
from bathyscope.stages.place import Place
from bathyscope.stages.stage import Guard
from bathyscope.stages.streamed import StreamedBatches
from bathyscope.stages.trained import Trained, wants_k
from bathyscope.stores.objects import Objects
from bathyscope.training.grid import Grid, check_batch
from bathyscope.training.initial import initialise
from bathyscope.training.loop import Plan, Point, Scaled, Trainee, train
from bathyscope.training.shard import make_shard, split_tensors
from bathyscope.training.step import Step, StepSettings

_CHECK_EVERY = 10


@dataclass(frozen=True)
class Wanted:
    """A dictionary to be trained, and where its checkpoints go."""

    config: Config
    objects: Objects
    """The folder of the dictionary."""
    segment: str


def train_one(
    config: Config,
    columns: HookColumns,
    *,
    objects: Objects,
    segment: str,
    guard: Guard,
    place: Place | None = None,
) -> Trained:
    """Train the configured dictionary, from its last checkpoint in `objects` if it has one.

    The thresholds are those of training: `finished` sets those of use. Raises `NonFiniteError`
    for a loss that is not finite or grows without bound.
    """
    wanted = Wanted(config, objects, segment)
    [trained] = train_together([wanted], columns, guard=guard, place=place)
    if trained.error is not None:
        raise trained.error
    return trained


def train_together(
    wanted: Sequence[Wanted],
    columns: HookColumns,
    *,
    guard: Guard,
    place: Place | None = None,
) -> list[Trained]:
    """Train dictionaries of the same columns on one stream of batches, each as if it were alone.

    Each goes on from its own last checkpoint. One whose loss is not finite, or grows without bound,
    ends alone, with the `error`.
    """
    place = place or Place()
    grid, rank, device = place.seat.grid, place.seat.rank, default_device_kind()
    first = wanted[0].config
    assert len({shared_settings(each.config) for each in wanted}) == 1, "one stream of batches"
    for each in wanted:
        check_groups(each.config, grid)
    batches = batches_of(first, columns, rank=grid.data_place(rank), world=grid.data)
    check_trainings([each.config for each in wanted], columns, batches, grid)
    shares = _Shares(guard)
    if isinstance(batches, StreamedBatches):
        assert len(wanted) == 1, "rows are given back when one training has passed them"
        batches.waits = shares.waits
        batches.join()
        # Its moments are the scales of the training.
        batches.wait(0)
    with ExitStack() as stack:
        trainings = [
            _Training(each, columns, batches, place=place, stack=stack, device=device)
            for each in wanted
        ]
        trainees = [
            training.trainee(partial(shares.report, number), guard)
            for number, training in enumerate(trainings)
        ]
        train(trainees, batches, scaled=trainings[0].scaled, device=device)
    return [
        Trained(
            training.dictionary,
            trainee.curve,
            training.scaled,
            batches,
            trainee.error,
            wants_k=wants_k(each.config, training.dictionary),
        )
        for training, trainee, each in zip(trainings, trainees, wanted, strict=True)
    ]


def shared_settings(config: Config) -> tuple[object, ...]:
    """What dictionaries that are trained on one stream have in common."""
    training, store = config.train, config.store
    return (
        tuple(config.inputs),
        tuple(config.outputs),
        training.epochs,
        training.tokens,
        training.batch_rows,
        training.order_seed,
        training.calibration_rows,
        training.processes,
        training.latent_parallel,
        store.streams,
        store.window_chunks,
    )


def check_groups(config: Config, grid: Grid) -> None:
    """Raise `ConfigError` for a batch that the grid, or the groups of a selection, cannot split."""
    selects = config.dictionary.activation == "batch_topk"
    check_batch(config.train.batch_rows, config.dictionary.group_rows if selects else None, grid)


class _Training:
    """One dictionary with its step and its checkpoints, before its first step or after its last."""

    def __init__(
        self,
        wanted: Wanted,
        columns: HookColumns,
        batches: AnyBatches,
        *,
        place: Place,
        stack: ExitStack,
        device: torch.device | str,
    ) -> None:
        self._settings, config = wanted.config.train, wanted.config
        grid, rank = place.seat.grid, place.seat.rank

        def make() -> AnyDictionary:
            return new_dictionary(config, columns)

        with torch.device("meta"):
            split = split_tensors(make())
        self.dictionary = make() if grid.world == 1 else make_shard(make, grid, rank)
        scales, mean = columns.scales_and_mean()
        self.scaled = Scaled(self.dictionary, scales)
        checkpoints = Checkpoints(wanted.objects, wanted.segment, split, place.seat)
        self._checkpoints = stack.enter_context(checkpoints)
        self._found = checkpoints.latest()
        if rank == 0:
            checkpoints.clear()
        if self._found is None:
            # All processes look at the rows of the whole first batch.
            whole = batches if grid.world == 1 else batches_of(config, columns)
            x, y = self.scaled(whole.batch(self._settings.order_seed, 0, 0))
            seed = self._settings.seed
            initialise(self.dictionary, x=x, y=y, mean=mean, seed=seed, mesh=place.mesh)
        self.dictionary.to(device)
        settings = _step_settings(config, batches)
        self._stream = batches if isinstance(batches, StreamedBatches) else None
        self._step = Step(self.dictionary, settings, lr=self._settings.lr, mesh=place.mesh)
        if self._found is not None:
            self._step.load(self._found.state)
        start = self._found.step if self._found else 0
        log = open_log(config, segment=wanted.segment, rank=rank, start=start)
        self._log = stack.enter_context(log)

    def trainee(self, report: Callable[[int, int, Point], None], guard: Guard) -> Trainee:
        """It as the loop takes it."""
        settings, found, stream = self._settings, self._found, self._stream
        curve = [Point.from_json(point) for point in found.facts["curve"]] if found else []

        def told(done: int, total: int, point: Point) -> None:
            if curve and curve[-1] is point:
                self._log.write(point)
            report(done, total, point)

        return Trainee(
            self._step,
            Plan(
                epochs=len(stream.windows) if stream else settings.epochs,
                lr=settings.lr,
                warmup_share=settings.warmup_share,
                decay_share=settings.decay_share,
                seed=settings.order_seed,
                log_every=settings.log_every,
                most_steps=settings.tokens // settings.batch_rows,
            ),
            start=found.step if found else 0,
            curve=curve,
            report=told,
            save=partial(self._save, guard),
            save_every=settings.checkpoint_steps,
            save_after=stream.ends(settings.order_seed) if stream else frozenset(),
        )

    def _save(self, guard: Guard, done: int, curve: list[Point]) -> None:
        guard.check()
        facts = {"curve": [point.to_json() for point in curve]}
        self._checkpoints.write(done, self._step.state(), facts)
        self._log.keep()
        if self._stream is not None:
            # What lies before the checkpoint is deleted, so it must be stored.
            self._checkpoints.wait()
            self._stream.passed(self._settings.order_seed, done)


class _Shares:
    """How far the trainings are, told together."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._points: dict[int, Point] = {}
        self._done = 0
        self._share = 0.0

    def waits(self, text: str) -> None:
        """Rows are waited for. Raises what the guard raises."""
        self._guard.progress(self._share, text)

    def report(self, number: int, done: int, total: int, point: Point) -> None:
        """Hear of a step of training `number`, and pass on once a step how far all are."""
        self._points[number] = point
        if done <= self._done:
            return
        self._done = done
        if done % _CHECK_EVERY == 0:
            self._guard.check()
        self._share = done / total
        self._guard.progress(self._share, self._told())

    def _told(self) -> str:
        figures = [point.figures for point in self._points.values()]
        dead = 100 * max(f.dead_share for f in figures)
        if len(figures) == 1:
            return f"FVU {figures[0].fvu:.3f}  L0 {figures[0].l0:.1f}  dead {dead:.1f} %"
        fvus = [f.fvu for f in figures]
        told = f"FVU {min(fvus):.3f} to {max(fvus):.3f}"
        return f"{len(fvus)} dictionaries  {told}  dead {dead:.1f} %"


def _step_settings(config: Config, batches: AnyBatches) -> StepSettings:
    settings = config.train
    return StepSettings(
        auxk_weight=settings.auxk_weight,
        dead_after_tokens=int(settings.dead_after_epochs * batches.num_rows),
        decoder_norm=settings.decoder_norm,
        l0_weight=settings.l0_weight,
        l1_weight=settings.l1_weight,
        preact_weight=settings.preact_weight,
        resample_steps=tuple(settings.resample_steps),
        seed=settings.seed,
        clip_norm=settings.clip_norm,
    )
