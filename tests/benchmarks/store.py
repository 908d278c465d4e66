#!/usr/bin/env python
"""The store beside plain files: writing and reading the same bytes, on the same disk, in one run.

    python tests/benchmarks/store.py [--folder FOLDER] [--units N]

Plain files: os.write and os.preadv of the rows' bytes, one file per shard. Both sides sum moments
and hash while writing and fsync every file; both sides check what they read (we the crc32c of
every chunk, the plain side the xxh3 of every file). Reads are cold: the page cache is dropped.
The row gather: a shuffled batch of ours against zarr-python reading the same number of random
rows of the same arrays.

Each figure is the median over rounds, the two sides taking turns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from bathyscope.stores.batches import ShuffledBatches
from bathyscope.stores.chunks import Chunks, Part
from bathyscope.stores.manifests import Segment
from bathyscope.stores.moments import moments
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.rows import SegmentReader, to_disk
from bathyscope.stores.shards import ArraySpec, open_array
from bathyscope.stores.units import create_segment, write_unit
from bathyscope.values import Receipt, UnitPlan
from bench import conclude, folder

D = 1024
CHUNK_ROWS = 1024
SHARD_ROWS = 32 * CHUNK_ROWS
UNIT_ROWS = 4 * SHARD_ROWS
BATCH_ROWS = 4096


def rows_of(unit: int) -> Tensor:
    """Activation-like rows of a unit: normal, with three large dimensions."""
    torch.manual_seed(unit)
    rows = torch.randn(UNIT_ROWS, D)
    rows[:, :3] *= 100
    return rows.bfloat16()


def segment_of(units: int) -> Segment:
    """`units` units of four shards."""
    spec = ArraySpec("resid", (D,), "uint16", "bfloat16", CHUNK_ROWS, SHARD_ROWS)
    plan = UnitPlan((("train", 0, units * UNIT_ROWS),), UNIT_ROWS)
    return Segment("seg", plan, arrays=(spec,), rows_per_unit=UNIT_ROWS)


def write_ours(base: Path, segment: Segment, unit: int, rows: Tensor) -> None:
    """One unit into the store, with its receipt."""
    objects = Objects(str(base))
    shards = write_unit(
        objects,
        segment,
        unit=segment.plan.unit(unit),
        rows={"resid": to_disk(rows)},
        check=lambda: None,
    )
    sums = {"resid": {0: moments(rows)}}
    Receipts(objects, "seg").create(Receipt(unit, 1, len(rows), shards, sums))


def write_plain(base: Path, unit: int, rows: Tensor, digests: list[str]) -> None:
    """The same bytes into plain files; their digests are added to the list."""
    for number, part in enumerate(rows.split(SHARD_ROWS)):
        moments(part)
        data = memoryview(to_disk(part)).cast("B")
        digests.append(xxhash.xxh3_128_hexdigest(data))
        descriptor = os.open(base / f"{unit}.{number}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        done = 0
        while done < len(data):
            done += os.write(descriptor, data[done:])
        os.fsync(descriptor)
        os.close(descriptor)


def read_plain(base: Path, unit: int, digests: list[str]) -> None:
    """Read the files of a unit into one array and compare their digests."""
    out = np.empty((UNIT_ROWS, D), dtype=np.uint16)
    for number, digest in enumerate(digests):
        part = out[number * SHARD_ROWS : (number + 1) * SHARD_ROWS]
        data = memoryview(part).cast("B")
        descriptor = os.open(base / f"{unit}.{number}", os.O_RDONLY)
        done = 0
        while done < len(data):
            done += os.preadv(descriptor, [data[done:]], done)
        os.close(descriptor)
        assert xxhash.xxh3_128_hexdigest(data) == digest


def forget(base: Path) -> None:
    """Drop the files of a folder from the page cache. They are on the disk already."""
    for path in base.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def measure_writes(base: Path, units: int) -> tuple[dict[str, float], list[list[str]]]:
    """Both sides write every unit, in turns; the digests of the plain files."""
    segment = segment_of(units)
    create_segment(Objects(str(base / "ours")), segment)
    (base / "plain").mkdir(parents=True)
    # The first writes of a process find no free pages: they are not counted.
    warm = base / "warm"
    warm.mkdir()
    write_plain(warm, 0, rows_of(0), [])
    write_ours(warm / "ours", segment, 0, rows_of(0))
    shutil.rmtree(warm)
    ours: list[float] = []
    plain: list[float] = []
    digests: list[list[str]] = []
    for unit in range(units):
        rows = rows_of(unit)
        digests.append([])
        plain.append(seconds(write_plain, base / "plain", unit, rows, digests[-1]))
        ours.append(seconds(write_ours, base / "ours", segment, unit, rows))
    return _figures("write", ours, plain), digests


def measure_reads(base: Path, units: int, digests: list[list[str]]) -> dict[str, float]:
    """Both sides read every unit from the disk, in turns."""
    reader = SegmentReader(Objects(str(base / "ours")), segment_of(units))
    forget(base)
    ours, plain = [], []
    for unit in reader.units:
        plain.append(seconds(read_plain, base / "plain", unit.index, digests[unit.index]))
        ours.append(seconds(reader.read_tensor, "resid", unit))
    return _figures("read", ours, plain)


def measure_batches(base: Path, units: int) -> dict[str, float]:
    """An epoch of shuffled batches, against batches of random rows through zarr-python."""
    objects = Objects(str(base / "ours"))
    reader = SegmentReader(objects, segment_of(units))
    chunks = Chunks([Part(reader, ["resid"], split="train")])
    batches = ShuffledBatches(chunks, batch_rows=BATCH_ROWS, streams=32, window_chunks=4)
    steps = batches.num_steps(0, 0)
    forget(base / "ours")
    start = time.perf_counter()
    for step in range(steps):
        batches.batch(0, 0, step)
    ours = (time.perf_counter() - start) / steps
    array = open_array(objects, "seg", "resid")
    generator = np.random.default_rng(0)
    forget(base / "ours")
    gathers = []
    for _ in range(3):
        wanted = np.sort(generator.choice(units * UNIT_ROWS, BATCH_ROWS, replace=False))
        gathers.append(seconds(array.oindex.__getitem__, wanted))
    gather = statistics.median(gathers)
    print(
        f"batch of {BATCH_ROWS} rows: ours {ours * 1e3:.1f} ms, zarr gather {gather * 1e3:.0f} ms"
    )
    return {"over_row_gather": gather / ours, "batch_gb_s": BATCH_ROWS * D * 2 / ours / 1e9}


def _figures(what: str, ours: list[float], plain: list[float]) -> dict[str, float]:
    size = UNIT_ROWS * D * 2 / 1e9
    mine, theirs = statistics.median(ours), statistics.median(plain)
    ratio = statistics.median(p / o for p, o in zip(plain, ours, strict=True))
    print(f"{what}: ours {size / mine:.2f} GB/s, plain files {size / theirs:.2f} GB/s")
    return {f"{what}_over_raw": ratio, f"{what}_gb_s": size / mine}


def main() -> None:
    """All three, and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to be measured")
    parser.add_argument("--units", type=int, default=8, help="units of 268 MB on each side")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with folder(given.folder) as base:
        figures, digests = measure_writes(base, given.units)
        figures |= measure_reads(base, given.units, digests)
        figures |= measure_batches(base, given.units)
    conclude({key: round(value, 3) for key, value in figures.items()})


if __name__ == "__main__":
    main()
