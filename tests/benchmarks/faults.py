#!/usr/bin/env python
"""A harvest over three Ray nodes survives what clusters do: nothing is lost, little is done twice.

    python tests/benchmarks/faults.py [--folder FOLDER] [--seeds 20] [--results FILE]

One Ray cluster of real raylets on this machine, with fake GPUs and short health checks, for all
seeds. A seed draws three faults: SIGKILL of a worker, of a worker while a shard is being written,
of a raylet, of the driver, or SIGSTOP and later SIGCONT of a worker. The model is SmolLM2, its
first three layers. A seed survives when the shards have the digests of a quiet run in one process,
every unit has one receipt, and no more units were done again than the faults had disturbed.

Each seed's faults and outcome are appended to the results, and seeds that are there are not run
again: the script goes on where it was stopped. `--seeds 7:8` replays seed 7 alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import ray_nodes
from cluster_faults import WORKERS, Stage, as_json, schedule_of, wait_for

from bathyscope.commands.run import run
from bathyscope.config import Config
from bathyscope.runs.run import ACTIVATIONS
from bathyscope.stages import harvest
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.stored_receipts import StoredReceipts
from bench import COMMIT, conclude, configuration, folder, inline

LONGEST_S = 300
SETTINGS = (
    "hooks.points=[resid_post.0,resid_post.2]", "dictionary.hook=resid_post.2",
    "store.items_per_unit=16", "cluster.threads=1", "cluster.workers=3",
    "cluster.gpus_per_worker=1", "cluster.straggler_factor=3", "cluster.straggler_least_s=5",
    "cluster.max_failures=10", "data.train_tokens=90000",
)  # fmt: skip


def config_of(base: Path, name: str, *overrides: str) -> Config:
    """The configuration of one run, its corpus made."""
    config = configuration(base / name, *SETTINGS, *overrides)
    config = dataclasses.replace(config, url=os.path.abspath(config.url))
    run(inline(config), stages=["corpus"])
    return config


def receipts_of(config: Config) -> Receipts:
    """The receipts of the harvest."""
    objects = Objects(config.url).at(ACTIVATIONS)
    return Receipts(objects, harvest.units(config).segment.name)


def digests(config: Config) -> dict[str, str]:
    """Key -> digest of what is on the disk now, of every shard that a receipt names."""
    import xxhash

    receipts = receipts_of(config)
    return {
        shard.key: xxhash.xxh3_128_hexdigest(receipts.objects.get(shard.key))
        for receipt in StoredReceipts(receipts).values()
        for shard in receipt.shards
    }


def try_seed(
    seed: int, base: Path, nodes: Any, members: list[Any], quiet: dict[str, str]
) -> dict[str, Any]:
    """Run one seed to its end and judge it."""
    config = config_of(base, f"seed-{seed}", "cluster=address", f"cluster.address={nodes.address}")
    settings = base / f"seed-{seed}.json"
    settings.write_text(json.dumps(dataclasses.asdict(config)))
    units = harvest.units(config).plan.num_units
    faults = schedule_of(seed, units)
    receipts = receipts_of(config)
    shards = Path(config.url) / ACTIVATIONS
    started = time.monotonic()
    stage = Stage(nodes, members, settings, base / f"seed-{seed}.log")
    struck = []
    try:
        for fault in faults:
            _until(stage, lambda n=fault.after_units: len(receipts.units()) >= n, started)
            end = time.monotonic() + fault.then_s
            _until(stage, lambda end=end: time.monotonic() >= end, started)
            struck.append(stage.strike(fault, shards))
        _until(stage, lambda: stage.driver.poll() is not None, started)
        code = stage.driver.poll()
    finally:
        stage.close()
    found = StoredReceipts(receipts)
    again = sum(int(r.writer["attempt"]) - 1 for r in found.values())
    allowed = sum(f.disturbed for f, hit in zip(faults, struck, strict=False) if hit)
    same = code == 0 and digests(config) == quiet
    return {
        "seed": seed,
        "survived": bool(same and len(found) == units and again <= allowed),
        "same_digests": same,
        "exit_code": code,
        "units": units,
        "done_again": again,
        "disturbed_at_most": allowed,
        "cut_off_writes": len(stage.cut_off),
        "struck": struck,
        "seconds": round(time.monotonic() - started, 1),
        "faults": as_json(faults),
        "commit": COMMIT,
    }


def _until(stage: Stage, over: Any, started: float) -> None:
    """Wait for it, for the end of the driver, or for the end of patience."""

    def look() -> bool:
        stage.look()
        return bool(over()) or stage.driver.poll() is not None

    wait_for(look, LONGEST_S - (time.monotonic() - started))


def main() -> None:
    """All seeds that are not in the results yet."""
    # Of the processes that are started from here.
    os.environ |= {"PYTHONPATH": sys.path[0], "RAY_USAGE_STATS_ENABLED": "0"}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where runs are kept")
    parser.add_argument("--results", type=Path, help="JSON lines, one per seed")
    parser.add_argument("--seeds", default="20", help="how many, or FIRST:END")
    given = parser.parse_args()
    first, _, end = given.seeds.rpartition(":")
    seeds = range(int(first or 0), int(end))
    with folder(given.folder) as base:
        results = given.results or base / "faults.jsonl"
        known = [json.loads(line) for line in results.open()] if results.exists() else []
        done = {one["seed"]: one for one in known}
        if set(seeds) - set(done):
            _try_all([s for s in seeds if s not in done], base, results, done)
    shown = [done[s] for s in seeds]
    conclude(
        {
            "tried": len(shown),
            "survived": sum(one["survived"] for one in shown),
            "faults": sum(sum(one["struck"]) for one in shown),
            "cut_off_writes": sum(one["cut_off_writes"] for one in shown),
            "units_done_again": sum(one["done_again"] for one in shown),
            "disturbed_at_most": sum(one["disturbed_at_most"] for one in shown),
            "commits": sorted({one["commit"] for one in shown}),
        }
    )


def _try_all(seeds: list[int], base: Path, results: Path, done: dict[int, dict[str, Any]]) -> None:
    quiet_config = inline(config_of(base, "quiet"))
    run(quiet_config, stages=["harvest"])
    quiet = digests(quiet_config)
    nodes = ray_nodes.start_head(**ray_nodes.QUICK_HEALTH_CHECKS)
    try:
        members = [ray_nodes.add_node(nodes, gpus=1) for _ in range(WORKERS)]
        for seed in seeds:
            one = done[seed] = try_seed(seed, base, nodes, members, quiet)
            with results.open("a") as file:
                file.write(json.dumps(one) + "\n")
            kinds = ", ".join(f["kind"] for f in one["faults"])
            print(
                f"seed {seed}: {'survived' if one['survived'] else 'LOST'} in {one['seconds']} s; "
                f"{one['done_again']} of {one['units']} units done again; {kinds}",
                flush=True,
            )
    finally:
        nodes.shutdown()


if __name__ == "__main__":
    main()
