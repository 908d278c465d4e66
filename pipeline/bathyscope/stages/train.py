"""train: one dictionary on the training rows of one hook point.

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
from bathyscope.dictionaries.topk import TopK
from bathyscope.models.precision import default_device_kind
from bathyscope.runs.activations import Rows
from bathyscope.runs.identity import digest
from bathyscope.runs.run import DICTIONARIES, Run
from bathyscope.runs.tables import to_parquet
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.masks import PROTOCOL, kept
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.batches import ShuffledBatches
from bathyscope.stores.objects import Objects
from bathyscope.training.initial import initial_topk
from bathyscope.training.loop import Plan, Point, train
from bathyscope.training.step import TopKStep
from bathyscope.values import TRAIN, Json, Receipt, Unit, UnitPlan

NAME = "train"
SEMANTICS = 4


@dataclass
class Context:
    """The rows that are trained on, and where the dictionary goes."""

    config: Config
    rows: Rows
    objects: Objects
    segment: str


def units(config: Config) -> Work:
    """One unit, identified by the activations and the settings of dictionary and training."""
    rows = Run(config.url).activations[config.hook]
    dictionary, train = config.dictionary, config.train
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "activations": digest(rows.identity),
        "hook": config.hook,
        "dictionary": {
            "kind": dictionary.kind,
            "num_latents": num_latents(config, rows.width),
            "k": dictionary.k,
        },
        "train": {key: value for key, value in vars(train).items() if key != "log_every"},
        "streams": config.store.streams,
        "window_chunks": config.store.window_chunks,
    }
    _check_k(config, rows.width)
    return Work(
        NAME,
        f"{DICTIONARIES}/{dictionary.name}",
        identity,
        UnitPlan((("all", 0, 1),), 1),
        unit_name="trainings",
        hint=(
            "Choose another dictionary.name to keep both (the harvest is shared), or pass "
            "force=true to replace it."
        ),
    )


def open(config: Config, work: Work) -> Context:
    """The reader of the training rows."""
    artifact = Objects(config.url).at(work.artifact)
    rows = Run(config.url).activations[config.hook]
    return Context(config, rows, artifact, work.segment.name)


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Train, fold the input scale in, and write the two files and the curve."""
    config, rows = context.config, context.rows
    statistics = rows.moments(TRAIN, kept)
    scale = statistics.mean_squared_deviation**0.5
    batches = rows.batches(
        TRAIN,
        kept,
        batch_rows=config.train.batch_rows,
        streams=config.store.streams,
        window_chunks=config.store.window_chunks,
        memory_bytes=config.store.memory_bytes,
    )
    dictionary = initial_topk(
        d_in=rows.width,
        num_latents=num_latents(config, rows.width),
        k=config.dictionary.k,
        hook_point=config.hook,
        mean=torch.from_numpy(statistics.mean / scale),
        seed=config.train.seed,
    ).to(default_device_kind())
    curve = _train(dictionary, batches, config=config, scale=scale, guard=guard)
    dictionary.fold_scale(scale)
    guard.check()
    facts = {"input_scale": scale, "positions": PROTOCOL, "rows": batches.num_rows}
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


def num_latents(config: Config, width: int) -> int:
    """The number of latents: as set, or expansion times the width."""
    return config.dictionary.num_latents or config.dictionary.expansion * width


def _check_k(config: Config, width: int) -> None:
    # The constructor holds the rule; on the meta device it costs nothing.
    with torch.device("meta"):
        TopK(
            d_in=width,
            num_latents=num_latents(config, width),
            k=config.dictionary.k,
            dtype=torch.float32,
        )


def _train(
    dictionary: TopK, batches: ShuffledBatches, *, config: Config, scale: float, guard: Guard
) -> list[Point]:
    settings = config.train
    step = TopKStep(
        dictionary,
        lr=settings.lr,
        auxk_weight=settings.auxk_weight,
        dead_after_tokens=int(settings.dead_after_epochs * batches.num_rows),
    )
    plan = Plan(
        epochs=settings.epochs,
        lr=settings.lr,
        warmup_share=settings.warmup_share,
        decay_share=settings.decay_share,
        seed=settings.seed,
        scale=scale,
        log_every=settings.log_every,
    )

    def report(done: int, total: int, point: Point) -> None:
        f = point.figures
        if done % settings.log_every == 0:
            guard.check()
        guard.progress(done / total, f"FVU {f.fvu:.3f}  dead {100 * f.dead_share:.1f} %")

    device = dictionary.W_enc.device
    return train(step, batches, plan=plan, device=device, report=report)


def _store(context: Context, dictionary: TopK, curve: list[Point], facts: Json) -> Outcome:
    files = to_files(dictionary, facts)
    files["curve.parquet"] = _curve_table(curve)
    keys = {
        "config.json": "config_key",
        "model.safetensors": "weights_key",
        "curve.parquet": "curve_key",
    }
    figures: Json = {"num_latents": dictionary.num_latents, "k": dictionary.k, **facts}
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
