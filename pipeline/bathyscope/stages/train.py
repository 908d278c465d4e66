"""train: one dictionary on the training rows of its hook points.

One unit: an interrupted training goes on from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from bathyscope.config import Config
from bathyscope.runs.identity import digest
from bathyscope.runs.run import DICTIONARIES, Run
from bathyscope.runs.work import Begun, Work
from bathyscope.stages.dictionary_files import publish, put_aside
from bathyscope.stages.hook_columns import HookColumns, hook_columns, new_dictionary
from bathyscope.stages.place import Place, place_of
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stages.streamed import give_back
from bathyscope.stages.trained import joined
from bathyscope.stages.trainings import train_one
from bathyscope.stages.turns import Turns
from bathyscope.stores.objects import Objects
from bathyscope.values import Json, Receipt, Unit, UnitPlan

NAME = "train"
SEMANTICS = 6
PARTS = True
_NOT_IDENTITY = ("log_every", "checkpoint_steps", "timeout_s", "processes", "latent_parallel")
"""What may be changed between a stop and going on: results stay, but for rounding."""


@dataclass
class Context:
    """The rows that are trained on, where the dictionary goes, and who trains with this process."""

    config: Config
    columns: HookColumns
    objects: Objects
    segment: str
    place: Place = field(default_factory=Place)
    turns: Turns = field(default_factory=Turns)


def units(config: Config) -> Work:
    """One unit, identified by the activations and the settings of dictionary and training."""
    return work_of(config, hook_columns(config, Run(config.url)))


def work_of(config: Config, columns: HookColumns) -> Work:
    """The work of training the configured dictionary on these columns."""
    with torch.device("meta"):
        # Making it checks every size, and costs nothing there.
        settings = new_dictionary(config, columns).settings()
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "activations": digest(columns.inputs[0].identity),
        "dictionary": settings,
        "train": {
            key: value
            for key, value in vars(config.train).items()
            # Dictionaries that were trained by epochs, before there was another way, stay theirs.
            if key not in _NOT_IDENTITY and (key, value) != ("tokens", 0)
        },
        "streams": config.store.streams,
        "window_chunks": config.store.window_chunks,
    }
    if config.store.limit_bytes:
        # Rows are shuffled within windows, so their size decides which batches there are.
        sample = columns.sample
        assert sample is not None, "a stream has windows"
        identity["stream_units"] = len(sample)
    return Work(
        NAME,
        f"{DICTIONARIES}/{config.dictionary.name}",
        identity,
        UnitPlan((("all", 0, 1),), 1),
        unit_name="trainings",
        hint=(
            "Choose another dictionary.name to keep both (the harvest is shared), or pass "
            "force=true to replace it."
        ),
    )


def processes(config: Config) -> int:
    """How many processes train together."""
    return config.train.processes


def open(config: Config, work: Work, part: tuple[int, int] = (0, 1)) -> Context:
    """The readers of the training rows; of `part[1]` processes that have met this is `part[0]`."""
    artifact = Objects(config.url).at(work.artifact)
    columns = hook_columns(config, Run(config.url))
    return Context(config, columns, artifact, work.segment.name, place_of(config, part))


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Train, fold the scales in, and write the files aside."""
    with context.turns.take(guard.turn):
        trained = train_one(
            context.config,
            context.columns,
            objects=context.objects,
            segment=context.segment,
            guard=guard,
            place=context.place,
        )
        trained = joined(trained, context.config, context.columns, context.place)
    if context.place.seat.rank != 0:
        return Outcome(valid=1)
    guard.check()
    figures = put_aside(
        trained,
        context.columns,
        order_seed=context.config.train.order_seed,
        objects=context.objects,
        segment=context.segment,
    )
    return Outcome(valid=1, figures=figures)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Put the files in their place and publish the dictionary."""
    facts = publish(begun, receipts)
    if config.store.limit_bytes:
        give_back(hook_columns(config, Run(config.url)).inputs[0], config.dictionary.name)
    return facts
