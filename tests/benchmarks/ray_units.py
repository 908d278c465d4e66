#!/usr/bin/env python
"""Units per second through the whole Ray scheduler when a unit itself costs nothing.

    python tests/benchmarks/ray_units.py [data.train_tokens=20000] [cluster.workers=16]

Everything is real but the work: 16 worker processes, a lease and a receipt per unit on the local
disk with every file synchronised, packing while the stage runs, the finished manifest. Start-up
of the workers is not counted: stages of 320 units go before until all have begun. Memory is that
of the driver, before and after.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path

import psutil

from bathyscope.config import Config
from bathyscope.jobs.cluster import Cluster
from bathyscope.jobs.sink import Silent
from bench import arguments, conclude, configuration, folder

SUPPORT = str(Path(__file__).parents[1] / "support")
# Of this process, and of the workers that Ray starts from it.
sys.path.insert(0, SUPPORT)
os.environ["PYTHONPATH"] = SUPPORT

UNITS, WARM, WORKERS = 20_000, 320, 16


def with_units(config: Config, folder: Path, units: int) -> Config:
    """The configuration of a run of its own with so many units."""
    data = dataclasses.replace(config.data, train_tokens=units)
    return dataclasses.replace(config, url=str(folder), data=data)


def main() -> None:
    """Warm up, drive all units, print the rate."""
    import noop_stage

    given = arguments(__doc__)
    defaults = [f"data.train_tokens={UNITS}", f"cluster.workers={WORKERS}", "cluster.threads=1"]
    with folder(given.folder) as base:
        config = configuration(base / "run", "cluster=local", *defaults, *given.overrides)
        cluster = Cluster(config)
        try:
            started = time.perf_counter()
            turn = 0
            while len(cluster.worker_pids()) < config.cluster.workers:
                turn += 1
                warm = with_units(config, base / f"warm-{turn}", WARM)
                cluster.drive(noop_stage, Silent(), warm)
            print(f"all workers began after {time.perf_counter() - started:.1f} s", flush=True)
            before = psutil.Process().memory_info().rss
            started = time.perf_counter()
            facts = cluster.drive(noop_stage, Silent())
            seconds = time.perf_counter() - started
            grown = psutil.Process().memory_info().rss - before
        finally:
            cluster.close()
    conclude(
        {
            "units": facts["units"],
            "workers": config.cluster.workers,
            "units_per_s": round(facts["units"] / seconds),
            "seconds": round(seconds, 1),
            "driver_grew_mb": round(grown / 1e6, 1),
        }
    )


if __name__ == "__main__":
    main()
