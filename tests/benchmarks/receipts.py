#!/usr/bin/env python
"""A million receipts: listing them, compacting them, and starting a reader afterwards.

    python tests/benchmarks/receipts.py [--folder FOLDER] [--receipts N]

Every receipt is a real file, with two shards and the sums of two mask classes of 64 dimensions;
making them is not timed. All are then packed by the code that a run uses, which fsyncs every pack.
The start-up is that of a fresh process, whose page cache for the packs was dropped: open the
segment, know which units are done and how many rows each holds. Memory is what the process holds
more than after its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bathyscope.stores.compaction import compact
from bathyscope.stores.objects import Objects
from bathyscope.stores.packs import GROUP
from bathyscope.stores.receipt_json import encode
from bathyscope.stores.receipts import Receipts
from bathyscope.values import Moments, Receipt, ShardRecord, UnitPlan
from bench import conclude, folder

D = 64

_START_UP = """
import json, sys, time
import psutil
import bathyscope.stores.rows
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.rows import SegmentReader
from bathyscope.stores.shards import ArraySpec
from bathyscope.values import UnitPlan

process = psutil.Process()
before = process.memory_info().rss
start = time.perf_counter()
plan = UnitPlan((("train", 0, int(sys.argv[2])),), 1)
spec = ArraySpec("resid", (512,), "uint16", "bfloat16", chunk_rows=1024, shard_rows=8192)
segment = Segment("seg", plan, arrays=(spec,), rows_per_unit=16384)
reader = SegmentReader(Objects(sys.argv[1]), segment)
rows = int(reader.receipts.counts.valid.sum())
took = time.perf_counter() - start
held = process.memory_info().rss - before
start = time.perf_counter()
n = sum(m.n for totals in reader.receipts.totals(plan) for m in totals.values())
totals_s = time.perf_counter() - start
start = time.perf_counter()
for unit in range(0, len(reader.units), max(len(reader.units) // 100, 1)):
    reader.receipts[unit].shards
one_s = (time.perf_counter() - start) / 100
print(json.dumps({"rows": rows, "n": n, "units": len(reader.units), "startup_s": took,
                  "startup_mb": held / 1e6, "totals_s": totals_s, "one_receipt_s": one_s}))
"""


def receipt_of(unit: int) -> Receipt:
    """A receipt as a harvest leaves it: two shards, and sums that are no round numbers."""
    rng = np.random.default_rng(unit)
    digests = [rng.bytes(16).hex() for _ in range(4)]
    shards = tuple(
        ShardRecord(f"resid/seg/c.{2 * unit + i}.0", 2**20, *digests[2 * i : 2 * i + 2])
        for i in range(2)
    )
    sums = {c: Moments(c + 1, rng.normal(size=D), rng.normal(size=D)) for c in (0, 1)}
    writer = {"host": f"node-{unit % 100}", "pid": unit % 9973, "device": "cpu x86_64"}
    return Receipt(unit, 1, 16_384, shards, {"resid": sums}, {}, writer)


def make(url: str, group: int) -> None:
    """The receipts of one thousand, one by one."""
    receipts = Receipts(Objects(url), "seg")
    for unit in range(group * GROUP, (group + 1) * GROUP):
        receipts.objects.put(receipts.key(unit), encode(receipt_of(unit)))


def start_up(url: str, count: int) -> dict[str, Any]:
    """What a fresh process says of the start-up, and of what comes after it."""
    for file in Path(url, "receipts/seg/packs").rglob("*.parquet"):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    command = [sys.executable, "-c", _START_UP, url, str(count)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(said)
    return found


def main() -> None:
    """Make, list, compact, start; print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--receipts", type=int, default=1_000_000, help="a multiple of 1000")
    given = parser.parse_args()
    with folder(given.folder) as base:
        conclude(measure(str(base / "store"), given.receipts))


def measure(url: str, count: int) -> dict[str, Any]:
    """All figures of one store."""
    receipts = Receipts(Objects(url), "seg")
    made = [g for g in range(count // GROUP) if receipts.packs.number(g) == 0]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(make, url), made))
    print(f"{len(made) * GROUP:,} receipts made", flush=True)
    start = time.perf_counter()
    assert len(receipts.units()) == count
    list_s = time.perf_counter() - start
    print(f"listed in {list_s:.1f} s", flush=True)
    start = time.perf_counter()
    packs = compact(receipts, UnitPlan((("train", 0, count),), 1))
    compact_s = time.perf_counter() - start
    print(f"{packs} packs in {compact_s:.0f} s", flush=True)
    start = time.perf_counter()
    assert len(receipts.units()) == count
    list_packed_s = time.perf_counter() - start
    runs = [start_up(url, count) for _ in range(3)]
    assert {r["units"] for r in runs} == {count}
    assert {r["rows"] for r in runs} == {16_384 * count}
    assert {r["n"] for r in runs} == {3 * count}
    worst = {name: max(r[name] for r in runs) for name in ("startup_s", "startup_mb", "totals_s")}
    on_disk = sum(f.stat().st_size for f in Path(url, "receipts").rglob("*.parquet"))
    return {
        "receipts": count,
        "list_s": round(list_s, 2),
        "compact_s": round(compact_s, 1),
        "compact_per_s": round(count / compact_s),
        "list_packed_s": round(list_packed_s, 3),
        **{name: round(value, 2) for name, value in worst.items()},
        "one_receipt_ms": round(1000 * max(r["one_receipt_s"] for r in runs), 1),
        "packed_mb": round(on_disk / 1e6),
    }


if __name__ == "__main__":
    main()
