"""train: one dictionary on the training rows of its hook points.

One unit: an interrupted training starts again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
import xxhash

from bathyscope.config import Config
from bathyscope.dictionaries.files import to_files
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.models.precision import default_device_kind
from bathyscope.runs.identity import digest
from bathyscope.runs.run import DICTIONARIES, Run
from bathyscope.runs.tables import to_parquet
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.hook_columns import HookColumns, hook_columns, new_dictionary
from bathyscope.stages.masks import PROTOCOL, kept
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.batches import ShuffledBatches
from bathyscope.stores.objects import Objects
from bathyscope.training.calibration import calibrate
from bathyscope.training.initial import initialise
from bathyscope.training.loop import Plan, Point, Scaled, train
from bathyscope.training.step import Step, StepSettings
from bathyscope.values import TRAIN, Json, Receipt, Unit, UnitPlan

NAME = "train"
SEMANTICS = 5


@dataclass
class Context:
    """The rows that are trained on, and where the dictionary goes."""

    config: Config
    columns: HookColumns
    objects: Objects
    segment: str


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
        "train": {key: value for key, value in vars(config.train).items() if key != "log_every"},
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


def open(config: Config, work: Work) -> Context:
    """The readers of the training rows."""
    artifact = Objects(config.url).at(work.artifact)
    return Context(config, hook_columns(config, Run(config.url)), artifact, work.segment.name)


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Train, fold the scales in, and write the two files and the curve."""
    config, columns = context.config, context.columns
    scales, mean = columns.scales_and_mean()
    batches = _batches(config, columns)
    dictionary = new_dictionary(config, columns)
    scaled = Scaled(dictionary, scales)
    first = scaled(batches.batch(config.train.seed, 0, 0))
    initialise(dictionary, x=first[0], y=first[1], mean=mean, seed=config.train.seed)
    dictionary.to(default_device_kind())
    curve = _train(dictionary, batches, config=config, scaled=scaled, guard=guard)
    _calibrate(dictionary, batches, scaled, config.train.seed)
    device = dictionary.parts[0].W_enc.device
    dictionary.fold_scales(scaled.inputs.to(device), scaled.outputs.to(device))
    guard.check()
    names = [rows.name for rows in columns.all]
    of_hooks = [float(scales[first]) for first in _firsts(columns)]
    facts = {
        "scales": dict(zip(names, of_hooks, strict=True)),
        "positions": PROTOCOL,
        "rows": batches.num_rows,
    }
    return _store(context, dictionary, curve, facts)


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
    return facts


def _batches(config: Config, columns: HookColumns) -> ShuffledBatches:
    first, *others = columns.all
    return first.batches(
        TRAIN,
        kept,
        batch_rows=config.train.batch_rows,
        streams=config.store.streams,
        window_chunks=config.store.window_chunks,
        memory_bytes=config.store.memory_bytes,
        beside=others,
    )


def _firsts(columns: HookColumns) -> list[int]:
    """The first column of each hook point."""
    widths = [rows.width for rows in columns.all]
    return [sum(widths[:number]) for number in range(len(widths))]


def _calibrate(
    dictionary: AnyDictionary, batches: ShuffledBatches, scaled: Scaled, seed: int
) -> None:
    device = dictionary.parts[0].W_enc.device
    blocks = (
        scaled(batches.batch(seed, 0, step).to(device))[0]
        for step in range(batches.num_steps(seed, 0))
    )
    calibrate(dictionary, blocks)


def _train(
    dictionary: AnyDictionary,
    batches: ShuffledBatches,
    *,
    config: Config,
    scaled: Scaled,
    guard: Guard,
) -> list[Point]:
    settings = config.train
    step = Step(
        dictionary,
        StepSettings(
            auxk_weight=settings.auxk_weight,
            dead_after_tokens=int(settings.dead_after_epochs * batches.num_rows),
            decoder_norm=settings.decoder_norm,
            l0_weight=settings.l0_weight,
            l1_weight=settings.l1_weight,
            clip_norm=settings.clip_norm,
        ),
        lr=settings.lr,
    )
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

    device = dictionary.parts[0].W_enc.device
    return train(step, batches, plan=plan, scaled=scaled, device=device, report=report)


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
