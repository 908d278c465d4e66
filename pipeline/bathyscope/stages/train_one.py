"""One training from rows to a finished dictionary: alone, or as one of the processes of a grid.

It goes on from its last checkpoint: what a step does follows from the state before it and its
number alone. On the same grid the result is the same to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.models.precision import default_device_kind
from bathyscope.stages.checkpoints import Checkpoints, Found, Seat
from bathyscope.stages.hook_columns import HookColumns, new_dictionary
from bathyscope.stages.masks import kept
from bathyscope.stages.stage import Guard
from bathyscope.stores.batches import ShuffledBatches
from bathyscope.stores.objects import Objects
from bathyscope.training.calibration import calibrate
from bathyscope.training.grid import check_batch, grid_of
from bathyscope.training.initial import initialise
from bathyscope.training.loop import Plan, Point, Scaled, train
from bathyscope.training.mesh import Mesh, Single
from bathyscope.training.shard import join_shards, make_shard, split_tensors
from bathyscope.training.step import Step, StepFigures, StepSettings
from bathyscope.values import TRAIN, Json


@dataclass(frozen=True)
class Place:
    """Where this process stands among those that train together."""

    seat: Seat = field(default_factory=Seat)
    mesh: Mesh = field(default_factory=Single)


class Trained(NamedTuple):
    """What a training gave to one process."""

    dictionary: AnyDictionary
    """In the scale of the training; with the latents of this process."""
    curve: list[Point]
    scaled: Scaled
    batches: ShuffledBatches


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

    The thresholds are those of training: `finished` sets those of use.
    """
    place = place or Place()
    grid, rank, device = place.seat.grid, place.seat.rank, default_device_kind()
    group_rows = config.dictionary.group_rows
    selects = config.dictionary.activation == "batch_topk"
    check_batch(config.train.batch_rows, group_rows if selects else None, grid)
    scales, mean = columns.scales_and_mean()

    def make() -> AnyDictionary:
        return new_dictionary(config, columns)

    with torch.device("meta"):
        split = split_tensors(make())
    dictionary = make() if grid.world == 1 else make_shard(make, grid, rank)
    scaled = Scaled(dictionary, scales)
    batches = batches_of(config, columns, rank=grid.data_place(rank), world=grid.data)
    checkpoints = Checkpoints(objects, segment, split, place.seat)
    found = checkpoints.latest()
    if found is None:
        # All processes look at the rows of the whole first batch.
        first = scaled(batches_of(config, columns).batch(config.train.seed, 0, 0))
        initialise(
            dictionary, x=first[0], y=first[1], mean=mean, seed=config.train.seed, mesh=place.mesh
        )
    dictionary.to(device)
    step = Step(dictionary, _settings(config, batches), lr=config.train.lr, mesh=place.mesh)
    if found is not None:
        step.load(found.state)
    curve = _train(step, batches, config, scaled, guard, checkpoints, found)
    return Trained(dictionary, curve, scaled, batches)


def place_of(config: Config, part: tuple[int, int]) -> Place:
    """The place of process `part[0]` of `part[1]` that have met; alone where there is one.

    Raises `ConfigError` where they do not divide into sets that hold all latents.
    """
    rank, world = part
    if world == 1:
        return Place()
    # Processes of several are a matter of torch.distributed, which not every platform has.
    from bathyscope.training.parallel import ParallelMesh, gather_records

    grid = grid_of(world, config.train.latent_parallel)
    mesh = ParallelMesh(grid, device=default_device_kind(), seconds=config.train.timeout_s)
    return Place(Seat(grid, rank, gather_records), mesh)


def joined(trained: Trained, config: Config, columns: HookColumns, place: Place) -> Trained:
    """The whole dictionary at rank 0, from the latents of all; elsewhere what was there."""
    grid, rank = place.seat.grid, place.seat.rank
    if grid.world == 1:
        return trained
    mine = tensors_of(trained.dictionary) if grid.data_place(rank) == 0 else None
    shards = place.seat.gather(mine)
    if rank != 0:
        return trained
    dictionary = new_dictionary(config, columns)
    split = split_tensors(dictionary)
    whole = join_shards([shard for shard in shards if shard is not None], split)
    dictionary.load_state_dict(whole)
    for part, own in zip(dictionary.parts, trained.dictionary.parts, strict=True):
        part.activation.load_training_state(own.activation.training_state())
    dictionary.to(trained.dictionary.parts[0].W_enc.device)
    return trained._replace(dictionary=dictionary, batches=batches_of(config, columns))


def finished(trained: Trained, seed: int) -> AnyDictionary:
    """The dictionary of a training by one process as it is used: calibrated, its scales folded."""
    dictionary, scaled, batches = trained.dictionary, trained.scaled, trained.batches
    device = dictionary.parts[0].W_enc.device
    blocks = (
        scaled(batches.batch(seed, 0, step).to(device))[0]
        for step in range(batches.num_steps(seed, 0))
    )
    calibrate(dictionary, blocks)
    dictionary.fold_scales(scaled.inputs.to(device), scaled.outputs.to(device))
    return dictionary


def batches_of(
    config: Config, columns: HookColumns, *, rank: int = 0, world: int = 1
) -> ShuffledBatches:
    """The training rows of all hook points, side by side; the share of one rank of `world`."""
    first, *others = columns.all
    return first.batches(
        TRAIN,
        kept,
        batch_rows=config.train.batch_rows,
        streams=config.store.streams,
        window_chunks=config.store.window_chunks,
        memory_bytes=config.store.memory_bytes,
        beside=others,
        rank=rank,
        world=world,
    )


def _settings(config: Config, batches: ShuffledBatches) -> StepSettings:
    settings = config.train
    return StepSettings(
        auxk_weight=settings.auxk_weight,
        dead_after_tokens=int(settings.dead_after_epochs * batches.num_rows),
        decoder_norm=settings.decoder_norm,
        l0_weight=settings.l0_weight,
        l1_weight=settings.l1_weight,
        clip_norm=settings.clip_norm,
    )


def _train(
    step: Step,
    batches: ShuffledBatches,
    config: Config,
    scaled: Scaled,
    guard: Guard,
    checkpoints: Checkpoints,
    found: Found | None,
) -> list[Point]:
    settings = config.train
    plan = Plan(
        epochs=settings.epochs,
        lr=settings.lr,
        warmup_share=settings.warmup_share,
        decay_share=settings.decay_share,
        seed=settings.seed,
        log_every=settings.log_every,
    )

    def report(done: int, total: int, point: Point) -> None:
        f = point.figures
        if done % settings.log_every == 0:
            guard.check()
        told = f"FVU {f.fvu:.3f}  L0 {f.l0:.1f}  dead {100 * f.dead_share:.1f} %"
        guard.progress(done / total, told)

    def save(done: int, curve: list[Point]) -> None:
        guard.check()
        checkpoints.write(done, step.state(), {"curve": [_to_json(point) for point in curve]})

    return train(
        step,
        batches,
        plan=plan,
        scaled=scaled,
        device=step.silent_tokens[0].device,
        report=report,
        start=found.step if found else 0,
        curve=[_from_json(point) for point in found.facts["curve"]] if found else [],
        save=save,
        save_every=settings.checkpoint_steps,
    )


def _to_json(point: Point) -> Json:
    return {"step": point.step, "tokens": point.tokens, **point.figures._asdict()}


def _from_json(record: dict[str, Any]) -> Point:
    figures = {name: float(record[name]) for name in StepFigures._fields}
    return Point(int(record["step"]), int(record["tokens"]), StepFigures(**figures))


def tensors_of(dictionary: AnyDictionary) -> dict[str, Tensor]:
    """The weights here, by name, to be joined with those of other processes."""
    return {name: tensor.detach().cpu() for name, tensor in dictionary.state_dict().items()}
