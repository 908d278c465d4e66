#!/usr/bin/env python
"""The harvest on a GPU over the bare forward, with a random-weight model that is built there.

    PYTHONPATH=pipeline:kernels python tests/benchmarks/harvest_gpu.py [--device cpu]

Needs torch, transformers and accelerate; what else the stores import may be missing (zarr, obstore,
xxhash, …), since shards go to plain files here. Everything between the model and the file is the
real thing: the stage's loop with its two units at a time, the side stream, the pinned ring, sums
and checks of every row, the writer threads. First the files are compared with a direct capture,
bit for bit, and waits for the GPU in the launching loop are counted; then both are timed in turns:

`over_bare_memory`: files in memory (/dev/shm); `over_bare_disk`: in --folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

ABSENT = (
    "zarr", "zarr.codecs", "zarr.errors", "zarr.storage", "obstore", "obstore.store",
    "obstore.exceptions", "xxhash", "google_crc32c", "numcodecs", "numcodecs.blosc", "pyarrow",
    "pyarrow.parquet", "psutil", "omegaconf", "hydra", "rich",
)  # fmt: skip
for _name in ABSENT:
    if importlib.util.find_spec(_name.split(".")[0]) is None:
        # Imported, and never called here.
        sys.modules[_name] = MagicMock()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers as hf  # noqa: E402
from torch import Tensor  # noqa: E402

from bathyscope.models.capture import capture_batches  # noqa: E402
from bathyscope.models.hook_points import resolve  # noqa: E402
from bathyscope.stages import harvest  # noqa: E402
from bathyscope.stages.batches import TokenBatches  # noqa: E402
from bathyscope.stores import filling  # noqa: E402
from bathyscope.stores.manifests import Segment  # noqa: E402
from bathyscope.stores.ring import Ring  # noqa: E402
from bathyscope.stores.shards import ArraySpec  # noqa: E402
from bathyscope.stores.writers import Writers  # noqa: E402
from bathyscope.values import ShardRecord, Unit, UnitPlan  # noqa: E402

SIZES = {
    "cuda": {"hidden": 4096, "inner": 14_336, "layers": 8, "heads": 32, "length": 1024},
    "cpu": {"hidden": 128, "inner": 256, "layers": 4, "heads": 4, "length": 64},
}
BATCH, BATCHES_PER_UNIT, ROUNDS = 8, 8, 5


class Corpus:
    """Random tokens; the first position of each sequence has a mask of its own."""

    def __init__(self, length: int) -> None:
        self.length = length

    def tokens(self, start: int, stop: int) -> Tensor:
        generator = torch.Generator().manual_seed(start)
        return torch.randint(1000, (stop - start, self.length), generator=generator)

    def masks(self, start: int, stop: int) -> np.ndarray:
        masks = np.zeros((stop - start, self.length), dtype=np.uint8)
        masks[:, 0] = 1
        return masks


class Guard:
    """No lease, no progress."""

    keep, turn = True, None

    def check(self) -> None:
        """Nobody else is here."""

    def progress(self, fraction: float, text: str = "") -> None:
        """Nobody looks."""


def write_plain(self: Any, name: str, number: int, rows: Any) -> ShardRecord:
    """In place of a Zarr shard: the rows as they are, in a file of the unit."""
    spec = self._segment.array(name)
    key = spec.shard_key(self._segment.name, self._shards(spec)[number])
    with (Path(self._objects) / key.replace("/", "-")).open("wb", buffering=0) as file:
        file.write(np.ascontiguousarray(rows).data)
    return ShardRecord(key, rows.nbytes, "", "")


def segment_of(points: list[str], width: int, length: int, units: int) -> Segment:
    """Each unit is one shard of every hook point."""
    items = BATCH * BATCHES_PER_UNIT
    rows = items * length
    arrays = tuple(
        ArraySpec(p, (width,), "uint16", "bfloat16", chunk_rows=rows // 8, shard_rows=rows // 4)
        for p in points
    )
    plan = UnitPlan((("train", 0, units * items),), items)
    return Segment("plain", plan, length, arrays, rows)


def drive(context: harvest.Context, units: list[Unit]) -> float:
    """Seconds of the units, two at a time as a worker does them."""
    synchronise(context.device)
    started = time.perf_counter()
    with ThreadPoolExecutor(harvest.LANES) as lanes:
        for outcome in lanes.map(lambda unit: harvest.run(unit, context, Guard()), units):
            assert outcome.shards
    return time.perf_counter() - started


def bare(context: harvest.Context, units: list[Unit]) -> float:
    """Seconds of the same forwards, which end at the same module, with nothing taken."""
    synchronise(context.device)
    started = time.perf_counter()
    for unit in units:
        for _ in context.captures(context.batches(unit)):
            pass
    synchronise(context.device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def check(context: harvest.Context, unit: Unit, folder: Path) -> int:
    """Compare a unit's files with a direct capture; the number of waits in the loop."""
    waits = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if context.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            harvest.run(unit, context, Guard())
        finally:
            if context.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        waits = sum("synchroniz" in str(w.message).lower() for w in caught)
    parts: dict[str, list[Tensor]] = {name: [] for name in context.names}
    for seen in context.captures(context.batches(unit)):
        for name, x in seen.items():
            parts[name].append(x.flatten(0, 1).to(torch.bfloat16).cpu())
    for name, found in parts.items():
        # The first unit's shards; there are four of each hook point.
        keys = [context.segment.array(name).shard_key("plain", shard) for shard in range(4)]
        stored = b"".join((folder / key.replace("/", "-")).read_bytes() for key in keys)
        wanted = torch.cat(found).view(torch.int16).numpy().tobytes()
        assert stored == wanted, f"{name}: the files differ from the capture"
    return waits


def main() -> None:
    """Build, check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to write to")
    parser.add_argument("--units", type=int, default=6)
    given = parser.parse_args()
    device = torch.device(given.device)
    size = SIZES[device.type]
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=1000, hidden_size=size["hidden"], intermediate_size=size["inner"],
        num_hidden_layers=size["layers"], num_attention_heads=size["heads"],
        num_key_value_heads=size["heads"] // 4, max_position_embeddings=4096,
    )  # fmt: skip
    with device:
        model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.requires_grad_(False)
    last = size["layers"] - 1
    points = [f"resid_post.{layer}" for layer in (last // 3, 2 * last // 3, last)]
    segment = segment_of(points, size["hidden"], size["length"], given.units)
    shard = segment.arrays[0].shard_rows * size["hidden"] * 2
    corpus: Any = Corpus(size["length"])
    filling.Filling._place = write_plain  # type: ignore[method-assign]
    memory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    disk = Path(tempfile.mkdtemp(dir=given.folder))
    context = harvest.Context(
        corpus=corpus,
        device=device,
        batches=TokenBatches(corpus, BATCH, device).of,
        captures=partial(capture_batches, model, [resolve(model, p) for p in points]),
        names=points,
        segment=segment,
        objects=memory,  # type: ignore[arg-type]
        batch_items=BATCH,
        fsync=False,
        ring=Ring(3 * 3 * shard, pinned=device.type == "cuda"),
        writers=Writers(4),
    )
    units = segment.plan.units()
    try:
        waits = check(context, units[0], memory)
        print(f"files equal the capture; {waits} waits in the loop", flush=True)
        on_disk = SimpleNamespace(**{**vars(context), "objects": disk})
        seconds: dict[str, list[float]] = {"bare": [], "memory": [], "disk": []}
        for turn in range(ROUNDS + 1):
            for name, run in (
                ("bare", lambda: bare(context, units)),
                ("memory", lambda: drive(context, units)),
                ("disk", lambda: drive(on_disk, units)),  # type: ignore[arg-type]
            ):
                took = run()
                if turn:
                    seconds[name].append(took)
            print(f"turn {turn}", {k: round(v[-1], 3) for k, v in seconds.items() if v}, flush=True)
    finally:
        shutil.rmtree(memory)
        shutil.rmtree(disk)
    tokens = sum(unit.num_items for unit in units) * size["length"]
    median = {name: statistics.median(took) for name, took in seconds.items()}
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(f"\n{name}, torch {torch.__version__}, {os.cpu_count()} cores, {size}")
    print(
        json.dumps(
            {
                "over_bare_memory": round(median["bare"] / median["memory"], 3),
                "over_bare_disk": round(median["bare"] / median["disk"], 3),
                "bare_tokens_per_s": round(tokens / median["bare"]),
                "gb_per_s_in_memory": round(
                    tokens * 3 * 2 * size["hidden"] / median["memory"] / 1e9, 2
                ),
                "waits_in_the_loop": waits,
            }
        )
    )


if __name__ == "__main__":
    main()
