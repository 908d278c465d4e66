#!/usr/bin/env python
"""What each store codec costs: size, speed, and the quality of a dictionary trained on it.

    python tests/benchmarks/codecs.py [--folder FOLDER] [overrides of the demo]

Two data sets. `smollm2`: the demo's rows, SmolLM2-135M, resid_post.9. `planted`: the same rows
with three dimensions times 1000, and sinks: one row in 200, at random positions, gets 30,000
added in two more dimensions. Rows are stored with each codec and a TopK dictionary is trained on
what is read back, with the settings of the demo. Held-out figures are of the rows before the
codec, so that they say what training on the codec did.

Planted rows are divided by the deviation of each dimension before training: else the three
dimensions are all that a squared error sees, whatever the codec. Sinks are left out of training,
as a filter of the norm does. FVU is in these units; for ΔCE the planting is undone before the
model goes on. `lost` is the FVU of the rows that are read back, without any dictionary, in the
units of the data; `lost_in_sinks` that of the sinks, without the dimensions that make them.

`none` is trained twice, with two seeds: their difference is the noise. zstd_bitshuffle gives
every bit back, which is checked, and so needs no training.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bathyscope.commands.run import run as run_stages
from bathyscope.composition import compose
from bathyscope.config import Config
from bathyscope.dictionaries.dictionary import Dictionary, topk_autoencoder
from bathyscope.dictionaries.files import from_files, to_files
from bathyscope.evaluation.splice import Restart, add_batch
from bathyscope.metrics.reconstruction import Reconstruction
from bathyscope.metrics.splice import CLEAN, TokenLosses
from bathyscope.metrics.splice import delta_ce as change_of_ce
from bathyscope.runs.run import Run
from bathyscope.stages.hook_columns import num_latents
from bathyscope.stages.masks import kept
from bathyscope.stages.model import load_tail
from bathyscope.stores.batches import ShuffledBatches
from bathyscope.stores.chunks import Chunks, Part
from bathyscope.stores.codecs import CODECS, NONE, ZSTD, is_per_row, stored_dtype
from bathyscope.stores.manifests import Segment
from bathyscope.stores.moments import moments
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.rows import SegmentReader, scales_name
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.units import create_segment, encoded, write_unit
from bathyscope.training.initial import initialise
from bathyscope.training.loop import Plan, Scaled, Trainee, train
from bathyscope.training.step import Step, StepSettings
from bathyscope.values import HELD_OUT, TRAIN, Receipt, Unit, UnitPlan
from bench import arguments, conclude, folder

CHUNK_ROWS = 1024
UNIT_ROWS = 16 * CHUNK_ROWS
OUTLIERS = (7, 100, 400)
SINK_DIMENSIONS = (33, 222)
FACTOR, SINK, SINK_EVERY = 1000.0, 30_000.0, 200
ROUNDS = 3


@dataclass(frozen=True)
class Data:
    """Rows before any codec, and the units in which a dictionary sees them."""

    name: str
    train: Tensor
    """[rows, d], bfloat16"""
    held_out: Tensor
    """[rows, d], bfloat16, without sinks"""
    divisor: Tensor
    """[d], float32"""
    sinks: Tensor
    """[rows], bool: rows that are left out of training"""
    factor: Tensor
    """[d]: what the model's own activations are multiplied by."""


def rows_of(run: Run, hook: str, split: str) -> Tensor:
    """All rows of a split that count."""
    rows = run.activations[hook]
    parts = [
        rows.unit_rows(unit)[torch.from_numpy(kept(rows.masks(unit)))]
        for _, unit in rows.units()
        if unit.split == split
    ]
    return torch.cat(parts)


def smollm2(train_rows: Tensor, held_out: Tensor) -> Data:
    """The rows as they are, divided by one number for all dimensions."""
    scale = moments(train_rows).mean_squared_deviation ** 0.5
    width = train_rows.shape[1]
    return Data(
        "smollm2",
        train_rows,
        held_out,
        divisor=torch.full((width,), scale),
        sinks=torch.zeros(len(train_rows), dtype=torch.bool),
        factor=torch.ones(width),
    )


def planted(train_rows: Tensor, held_out: Tensor) -> Data:
    """The rows with three large dimensions, and sinks among those that are trained on."""
    factor = torch.ones(train_rows.shape[1])
    factor[list(OUTLIERS)] = FACTOR
    rows = train_rows.float() * factor
    deviation = rows.std(0)
    chosen = torch.rand(len(rows), generator=torch.Generator().manual_seed(1)) < 1 / SINK_EVERY
    for dimension in SINK_DIMENSIONS:
        rows[chosen, dimension] += SINK
    return Data(
        "planted",
        rows.bfloat16(),
        (held_out.float() * factor).bfloat16(),
        divisor=deviation,
        sinks=chosen,
        factor=factor,
    )


def segment_of(data: Data, codec: str) -> Segment:
    """A segment for the training rows."""
    width = data.train.shape[1]
    dtype = stored_dtype(codec, "uint16")
    spec = ArraySpec("x", (width,), dtype, "bfloat16", CHUNK_ROWS, UNIT_ROWS, codec)
    arrays = (spec,)
    if is_per_row(codec):
        name = scales_name("x")
        scales = ArraySpec(name, (), "float32", "float32", CHUNK_ROWS, UNIT_ROWS, scales_of="x")
        arrays = (spec, scales)
    plan = UnitPlan(((TRAIN, 0, len(data.train)),), UNIT_ROWS)
    return Segment("seg", plan, arrays=arrays, rows_per_unit=UNIT_ROWS)


def write(data: Data, segment: Segment, objects: Objects) -> float:
    """Store the training rows; seconds."""
    create_segment(objects, segment)
    start = time.perf_counter()
    for unit in segment.plan.units():
        part = data.train[unit.start : unit.stop]
        rows = encoded(segment, "x", part)
        shards = write_unit(objects, segment, unit=unit, rows=rows, check=lambda: None)
        Receipts(objects, "seg").create(Receipt(unit.index, 1, len(part), shards))
    return time.perf_counter() - start


def read(segment: Segment, objects: Objects) -> tuple[float, Tensor]:
    """Read every row; seconds and rows."""
    reader = SegmentReader(objects, segment)
    start = time.perf_counter()
    rows = torch.cat([reader.read_tensor("x", unit) for unit in reader.units])
    return time.perf_counter() - start, rows


def size_and_speed(data: Data, codec: str, base: Path) -> dict[str, float]:
    """Bytes against those of the rows, and GB/s of rows; the last store stays."""
    segment = segment_of(data, codec)
    raw = data.train.nbytes
    times = []
    rows = data.train
    for _ in range(ROUNDS):
        shutil.rmtree(base, ignore_errors=True)
        objects = Objects(str(base))
        write_s = write(data, segment, objects)
        read_s, rows = read(segment, objects)
        times.append((write_s, read_s))
        if codec in (NONE, ZSTD):
            assert torch.equal(rows.view(torch.int16), data.train.view(torch.int16)), codec
    stored = SegmentReader(objects, segment).receipts.counts.stored_bytes.sum()
    write_s, read_s = (statistics.median(t) for t in zip(*times, strict=True))
    # The last unit is padded to whole shards, so rows are compared with rows of full units.
    padded = segment.capacity(segment.arrays[0].name) * data.train.shape[1] * 2
    return {
        "size": round(float(stored) / padded, 3),
        "write_gb_s": round(raw / write_s / 1e9, 2),
        "read_gb_s": round(raw / read_s / 1e9, 2),
        **lost(data, rows),
    }


def lost(data: Data, rows: Tensor) -> dict[str, float]:
    """What a codec alone loses: FVU of the rows that were read back."""
    others = [d for d in range(rows.shape[1]) if d not in SINK_DIMENSIONS]
    found = {"lost": _fvu(data, rows, ~data.sinks, list(range(rows.shape[1])))}
    if data.sinks.any():
        found["lost_in_sinks"] = _fvu(data, rows, data.sinks, others)
    return found


def _fvu(data: Data, rows: Tensor, chosen: Tensor, dimensions: list[int]) -> float:
    sums = Reconstruction(len(dimensions))
    for x, x_hat in zip(data.train[chosen].split(8192), rows[chosen].split(8192), strict=True):
        pair = ((t.float() / data.divisor)[:, dimensions] for t in (x, x_hat))
        sums.update(*pair, num_active=torch.zeros(len(x), dtype=torch.long))
    return float(f"{sums.results()['fvu']:.3g}")


def trained(data: Data, codec: str, seed: int, config: Config, base: Path) -> Dictionary:
    """The dictionary of a codec, in the units of the data; kept for the next call."""
    kept_at = base / f"{data.name}-{codec}-{seed}"
    names = ("config.json", "model.safetensors")
    if (kept_at / names[-1]).exists():
        return from_files(*((kept_at / name).read_bytes() for name in names))
    segment = segment_of(data, codec)
    reader = SegmentReader(Objects(str(base / f"store-{data.name}-{codec}")), segment)

    def no_sink(unit: Unit) -> Any:
        return (~data.sinks[unit.start : unit.stop]).numpy()

    chunks = Chunks([Part(reader, ["x"], split=TRAIN, keep=no_sink)])
    settings = config.train
    batches = ShuffledBatches(
        chunks,
        batch_rows=settings.batch_rows,
        streams=config.store.streams,
        window_chunks=config.store.window_chunks,
    )
    width = data.train.shape[1]
    dictionary = topk_autoencoder(
        d_in=width,
        num_latents=num_latents(config, width),
        k=config.dictionary.k,
        hook_point=config.hook,
        dtype=torch.float32,
    )
    scaled = Scaled(dictionary, data.divisor)
    mean = torch.from_numpy(moments(data.train[~data.sinks]).mean).float() / data.divisor
    x, y = scaled(batches.batch(seed, 0, 0))
    initialise(dictionary, x=x, y=y, mean=mean, seed=seed)
    chosen = StepSettings(
        auxk_weight=settings.auxk_weight,
        dead_after_tokens=int(settings.dead_after_epochs * batches.num_rows),
    )
    plan = Plan(settings.epochs, settings.lr, settings.warmup_share, settings.decay_share, seed)
    train([Trainee(Step(dictionary, chosen, lr=settings.lr), plan)], batches, scaled=scaled)
    kept_at.mkdir(parents=True, exist_ok=True)
    for name, content in to_files(dictionary, {}).items():
        (kept_at / name).write_bytes(content)
    return dictionary


@torch.no_grad()
def held_out_fvu(data: Data, dictionary: Dictionary) -> float:
    """FVU of the held-out rows before the codec, in the units of the data."""
    found = Reconstruction(data.held_out.shape[1])
    for block in data.held_out.split(8192):
        x = block.float() / data.divisor
        latents = dictionary.encode(x)
        found.update(x, dictionary.decode(latents), num_active=latents.count)
    return float(found.results()["fvu"])


def delta_ce(config: Config, run: Run, variants: dict[str, Any]) -> dict[str, float]:
    """ΔCE in nats of every variant on the same held-out targets."""
    losses = TokenLosses()
    tail = Restart(load_tail(config, 10).model)
    rows, corpus = run.activations[config.hook], run.corpus
    first = corpus.split_range(HELD_OUT).start
    items = -(-config.evaluate.splice_tokens // (corpus.sequence_length - 2))
    size = config.evaluate.batch_items
    for start in range(first, first + items, size):
        stop = min(start + size, first + items)
        add_batch(
            losses,
            tail,
            tokens=corpus.tokens(start, stop),
            activations=rows.items(start, stop),
            keep=torch.from_numpy(kept(corpus.masks(start, stop))),
            documents=torch.from_numpy(corpus.documents(start, stop).astype("int64")),
            variants=variants,
        )
    found = losses.results()
    return {name: change_of_ce(found[CLEAN], found[name]) for name in variants}


def spliced_by(data: Data, dictionary: Dictionary) -> Any:
    """The reconstruction of the model's own activations by a dictionary of the data."""

    def reconstruct(x: Tensor) -> Tensor:
        standard = x * data.factor / data.divisor
        return dictionary(standard) * data.divisor / data.factor

    return reconstruct


def trainings() -> Iterator[tuple[str, int]]:
    """Codec and seed of every training."""
    yield NONE, 0
    yield NONE, 1
    yield from ((codec, 0) for codec in CODECS if is_per_row(codec))


def main() -> None:
    """Harvest once; for each data set and codec: store, train, measure."""
    given = arguments(__doc__)
    with folder(given.folder) as base:
        config, _ = compose(["experiment=demo", f"url={base / 'exact'}", *given.overrides])
        run_stages(config, stages=["corpus", "harvest"])
        run = Run(config.url)
        exact = [rows_of(run, config.hook, split) for split in (TRAIN, HELD_OUT)]
        figures: dict[str, Any] = {}
        variants = {}
        for data in (smollm2(*exact), planted(*exact)):
            for codec in CODECS:
                place = base / f"store-{data.name}-{codec}"
                figures[f"{data.name}/{codec}"] = size_and_speed(data, codec, place)
            for codec, seed in trainings():
                name = f"{data.name}/{codec}" + ("/seed 1" if seed else "")
                dictionary = trained(data, codec, seed, config, base)
                fvu = round(held_out_fvu(data, dictionary), 4)
                figures[name] = {**figures.get(name, {}), "fvu": fvu}
                variants[name] = spliced_by(data, dictionary)
                print(name, json.dumps(figures[name]), flush=True)
        for name, value in delta_ce(config, run, variants).items():
            figures[name]["delta_ce"] = round(value, 4)
        for name in figures:
            print(f"{name:28s} {json.dumps(figures[name])}")
        conclude(figures)


if __name__ == "__main__":
    main()
