"""train: one dictionary on the training rows of its hook points.

One unit: an interrupted training goes on from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
import xxhash

from bathyscope.config import Config
from bathyscope.dictionaries.files import to_files
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.runs.identity import digest
from bathyscope.runs.run import DICTIONARIES, Run
from bathyscope.runs.tables import to_parquet
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.hook_columns import HookColumns, hook_columns, new_dictionary
from bathyscope.stages.masks import PROTOCOL
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stages.train_one import Place, finished, joined, place_of, train_one
from bathyscope.stages.turns import Turns
from bathyscope.stores.objects import Objects
from bathyscope.training.loop import Point
from bathyscope.values import Json, Receipt, Unit, UnitPlan

NAME = "train"
SEMANTICS = 5
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
    columns = hook_columns(config, Run(config.url))
    with torch.device("meta"):
        # Making it checks every size, and costs nothing there.
        settings = new_dictionary(config, columns).settings()
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "activations": digest(columns.inputs[0].identity),
        "dictionary": settings,
        "train": {
            key: value for key, value in vars(config.train).items() if key not in _NOT_IDENTITY
        },
        "streams": config.store.streams,
        "window_chunks": config.store.window_chunks,
    }
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
    """Train, fold the scales in, and write the two files and the curve."""
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
    dictionary = finished(trained, context.config.train.seed)
    guard.check()
    scales, _ = context.columns.scales_and_mean()
    facts = {
        "scales": {
            rows.name: float(scales[first])
            for rows, first in zip(context.columns.all, context.columns.firsts, strict=True)
        },
        "positions": PROTOCOL,
        "rows": trained.batches.num_rows,
    }
    return _store(context, dictionary, trained.curve, facts)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Put the files in their place and publish the dictionary.

    The manifest holds their digests, so a reader that comes in between notices.
    """
    facts = dict(receipts[0].figures)
    parts = f"parts/{begun.work.segment.name}"
    for key in ("config_key", "weights_key", "curve_key"):
        begun.objects.put(facts[key], begun.objects.get(f"{parts}/{facts[key]}"))
    publish(begun, facts)
    begun.objects.delete_folder(parts)
    begun.objects.delete_folder("checkpoints")
    begun.objects.sweep("checkpoints")
    return facts


def _store(context: Context, dictionary: AnyDictionary, curve: list[Point], facts: Json) -> Outcome:
    files = to_files(dictionary, facts)
    files["curve.parquet"] = _curve_table(curve)
    keys = {
        "config.json": "config_key",
        "model.safetensors": "weights_key",
        "curve.parquet": "curve_key",
    }
    figures: Json = {"num_latents": dictionary.num_latents, "k": dictionary.k, **facts}
    figures["activation"] = dictionary.parts[0].activation.name
    for name, data in files.items():
        # Aside first: readers of a dictionary that is being replaced still find the old one.
        context.objects.put(f"parts/{context.segment}/{name}", data)
        figures[keys[name]] = name
        figures[f"{keys[name].removesuffix('_key')}_digest"] = xxhash.xxh3_128_hexdigest(data)
    figures["train_fvu_last_batches"] = float(np.mean([p.figures.fvu for p in curve[-5:]]))
    return Outcome(valid=1, figures=figures)


def _curve_table(curve: list[Point]) -> bytes:
    rows = [{"step": p.step, "tokens": p.tokens, **p.figures._asdict()} for p in curve]
    return to_parquet(pa.Table.from_pylist(rows))
