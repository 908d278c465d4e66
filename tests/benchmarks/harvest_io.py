#!/usr/bin/env python
"""How near the harvest comes to its ceiling when the model costs next to nothing.

    python tests/benchmarks/harvest_io.py [--folder FOLDER] [--units N]

The model is a module that makes rows of d 4096 at three hook points at the speed of memory: rows
of a table, chosen by the tokens, and two sums. Ours is the whole stage: hooks, copies into the
ring, moments, digests, shards, receipts, two units at a time. The ceiling is the slower of the
module alone and of a raw writer, which writes the same number of bytes with os.write and fsync,
one file per shard. The three take turns, so that noise of the disk meets all.

Memory is that of the process in a run four times as long: the largest in the last quarter above the
largest in the second.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from bathyscope.config import Config, StoreConfig
from bathyscope.jobs.inline import Inline
from bathyscope.jobs.sink import Silent
from bathyscope.models.capture import capture_batches
from bathyscope.models.hook_points import resolve
from bathyscope.runs.work import Work
from bathyscope.stages import harvest
from bathyscope.stages.batches import TokenBatches
from bathyscope.stages.harvest_layout import ring_bytes
from bathyscope.stages.layout import Column, lay_out
from bathyscope.stores.objects import Objects
from bathyscope.stores.ring import Ring
from bathyscope.stores.writers import Writers
from bathyscope.values import TRAIN, UnitPlan
from bench import conclude, folder

D, POINTS = 4096, ("embed", "first", "second")
LENGTH, BATCH, VOCABULARY = 256, 8, 4096
UNIT_ITEMS = 64


class MemorySpeed(nn.Module):
    """Three modules whose outputs cost a pass over memory each, and are never the same."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, D, dtype=torch.bfloat16)
        self.first = Shift(1)
        self.second = Shift(2)

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        return self.second(self.first(self.embed(input_ids)))


class Shift(nn.Module):
    """Adds a vector to every row."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.vector = nn.Parameter(torch.randn(D).bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.vector


class Corpus:
    """Random tokens."""

    def tokens(self, start: int, stop: int) -> Tensor:
        generator = torch.Generator().manual_seed(start)
        return torch.randint(VOCABULARY, (stop - start, LENGTH), generator=generator)

    def masks(self, start: int, stop: int) -> np.ndarray:
        masks = np.zeros((stop - start, LENGTH), dtype=np.uint8)
        masks[:, 0] = 1
        return masks


def work_of(units: int, name: str, store: StoreConfig) -> Work:
    """The work of a harvest of so many units."""
    columns = [Column(point, (D,), "uint16", "bfloat16") for point in POINTS]
    layout = lay_out(columns, unit_rows=UNIT_ITEMS * LENGTH, store=store)
    plan = UnitPlan(((TRAIN, 0, units * UNIT_ITEMS),), UNIT_ITEMS)
    identity = {"stage": name, "units": units}
    return Work(
        "harvest", "activations.zarr", identity, plan, LENGTH, layout.arrays, layout.rows_per_unit
    )


def opened(config: Config, model: nn.Module, units: int) -> harvest.Context:
    """What a worker holds for as long as it lives: the model, the ring, the writers."""
    work = work_of(units, "opened", config.store)
    corpus = Corpus()
    return harvest.Context(
        corpus=corpus,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        batches=TokenBatches(corpus, BATCH, torch.device("cpu")).of,  # type: ignore[arg-type]
        captures=partial(capture_batches, model, [resolve(model, point) for point in POINTS]),
        names=list(POINTS),
        segment=work.segment,
        objects=Objects("memory:///"),
        batch_items=BATCH,
        fsync=True,
        ring=Ring(ring_bytes(config, work.segment.arrays)),
        writers=Writers(config.hooks.writers),
    )


def ours(base: Path, config: Config, context: harvest.Context, units: int) -> float:
    """Seconds of the stage over so many units."""
    work = work_of(units, base.name, config.store)
    objects = Objects(str(base)).at(work.artifact)
    context = dataclasses.replace(context, segment=work.segment, objects=objects)
    stage: Any = SimpleNamespace(
        units=lambda _: work,
        open=lambda *_: context,
        run=harvest.run,
        finish=harvest.finish,
        LANES=harvest.LANES,
    )
    started = time.perf_counter()
    Inline(dataclasses.replace(config, url=str(base))).drive(stage, Silent())
    return time.perf_counter() - started


def module_alone(model: nn.Module, units: int) -> float:
    """Seconds of the bare forwards."""
    started = time.perf_counter()
    with torch.no_grad():
        for unit in range(units):
            tokens = Corpus().tokens(unit * UNIT_ITEMS, (unit + 1) * UNIT_ITEMS)
            for part in tokens.split(BATCH):
                model(part)
    return time.perf_counter() - started


def raw_writer(base: Path, work: Work, rows: memoryview) -> float:
    """Seconds to write as many bytes as the shards hold, file by file."""
    base.mkdir()
    started = time.perf_counter()
    for spec in work.segment.arrays:
        for shard in range(work.segment.capacity(spec.name) // spec.shard_rows):
            descriptor = os.open(base / f"{spec.name}.{shard}", os.O_WRONLY | os.O_CREAT)
            left = rows[: spec.shard_rows * spec.row_bytes]
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
            os.close(descriptor)
    return time.perf_counter() - started


class Memory:
    """Resident memory while the block lasts, looked at every 20 ms."""

    def __enter__(self) -> Memory:
        self.seen: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def grew_gb(self) -> float:
        """The largest of the last quarter above the largest of the second."""
        quarter = len(self.seen) // 4
        return (max(self.seen[-quarter:]) - max(self.seen[quarter : 2 * quarter])) / 1e9

    def _look(self) -> None:
        process = psutil.Process()
        while not self._over.wait(0.02):
            self.seen.append(process.memory_info().rss)


def rounds(
    base: Path,
    config: Config,
    model: MemorySpeed,
    context: harvest.Context,
    *,
    units: int,
    count: int,
) -> Iterator[dict[str, float]]:
    """Take turns; the first round warms up. Rates are GB/s of activations."""
    rows = memoryview(bytearray(os.urandom(2**20) * 512))
    for turn in range(count + 1):
        work = work_of(units, f"run-{turn}", config.store)
        gigabytes = work.num_bytes / 1e9
        module_s = module_alone(model, units)
        # Each finds the memory of the page cache that the other has just given back.
        raw_s = raw_writer(base / "raw", work, rows)
        shutil.rmtree(base / "raw")
        ours_s = ours(base / f"run-{turn}", config, context, units)
        shutil.rmtree(base / f"run-{turn}")
        found = {
            "ours": gigabytes / ours_s,
            "module": gigabytes / module_s,
            "raw": gigabytes / raw_s,
            "over_ceiling": max(raw_s, module_s) / ours_s,
        }
        print("warm-up " if turn == 0 else f"round {turn}  ", end="")
        print("  ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)
        if turn:
            yield found


def main() -> None:
    """Print the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where files are kept")
    parser.add_argument("--units", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    config = Config()
    model = MemorySpeed().eval()
    context = opened(config, model, given.units)
    with folder(given.folder) as base:
        found = list(rounds(base, config, model, context, units=given.units, count=given.rounds))
        with Memory() as memory:
            ours(base / "long", config, context, 4 * given.units)
        shutil.rmtree(base / "long")
    conclude(
        {
            "over_ceiling": round(statistics.median(f["over_ceiling"] for f in found), 3),
            **{
                f"{name}_gb_per_s": round(statistics.median(f[name] for f in found), 3)
                for name in ("ours", "module", "raw")
            },
            "ring_gb": round(context.ring.max_bytes / 1e9, 2),
            "memory_gb": round(max(memory.seen) / 1e9, 2),
            "memory_grew_gb": round(memory.grew_gb(), 3),
            "units": given.units,
        }
    )


if __name__ == "__main__":
    main()
