#!/usr/bin/env python
"""Two replicas of one thread each: our speed-up over one, beside that of two bare processes.

    python tests/benchmarks/replicas.py [data.train_tokens=80000]

Ours is the whole harvest over Ray: units, hooks, shards, receipts, from the moment that every
worker has done a unit until the last ones are under way. The bare side is processes that forward
random tokens through the same early-stopped model for as long, without hooks and without each
other's knowledge. What two processes lose to each other on this machine is lost by both.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
from harvest import bare_model

from bathyscope.commands.run import run
from bathyscope.config import Config
from bathyscope.jobs.cluster import Cluster
from bathyscope.jobs.sink import Silent
from bathyscope.runs.work import Begun
from bathyscope.stages import harvest
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.stored_receipts import StoredReceipts
from bench import arguments, conclude, configuration, folder, inline

BARE_S = 25.0


class Rate(Silent):
    """Units per second between the first moment at which all workers are busy and the last."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.seen: list[tuple[float, int]] = []

    def begin(self, begun: Begun) -> None:
        self.receipts = Receipts(begun.objects, begun.work.segment.name)
        self.last = begun.work.plan.num_units - 2 * self.workers

    def progress(self, done: float, text: str) -> None:
        whole = int(done)
        if self.seen:
            if self.seen[-1][1] < whole <= self.last:
                self.seen.append((time.perf_counter(), whole))
        elif len({r.writer["pid"] for r in StoredReceipts(self.receipts).values()}) == self.workers:
            self.seen.append((time.perf_counter(), whole))

    @property
    def per_s(self) -> float:
        (begin, first), (end, last) = self.seen[0], self.seen[-1]
        return (last - first) / (end - begin)


def ours(base: Path, workers: int, overrides: list[str]) -> float:
    """Tokens per second of a harvest with so many workers of one thread."""
    settings = ["cluster=local", f"cluster.workers={workers}", "cluster.threads=1", *overrides]
    config = configuration(base / f"workers-{workers}", *settings)
    run(inline(config), stages=["corpus"])
    cluster, rate = Cluster(config), Rate(workers)
    try:
        cluster.drive(harvest, rate)
    finally:
        cluster.close()
    plan = harvest.units(config).plan
    return rate.per_s * plan.items_per_unit * config.data.sequence_length


def _forward(config: Config, together: Barrier, told: Any) -> None:
    torch.set_num_threads(1)
    model = bare_model(config)
    shape = (config.hooks.batch_items, config.data.sequence_length)
    tokens = torch.randint(1000, shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(tokens, use_cache=False)
        together.wait()
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < BARE_S:
            model(tokens, use_cache=False)
            count += tokens.numel()
        told.put(count / (time.perf_counter() - started))


def bare(config: Config, processes: int) -> float:
    """Tokens per second of so many processes together."""
    context = multiprocessing.get_context("spawn")
    together, told = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=_forward, args=(config, together, told)) for _ in range(processes)
    ]
    for process in started:
        process.start()
    rates = [told.get() for _ in started]
    for process in started:
        process.join()
    return sum(rates)


def main() -> None:
    """One, two, and their ratio, on both sides."""
    given = arguments(__doc__)
    overrides = ["store.items_per_unit=8", "data.train_tokens=80000", *given.overrides]
    with folder(given.folder) as base:
        config = configuration(base / "bare", *overrides)
        rates = {}
        for count in (1, 2):
            rates[f"bare_{count}"] = bare(config, count)
            rates[f"ours_{count}"] = ours(base, count, overrides)
            print({name: round(rate) for name, rate in rates.items()}, flush=True)
    ours_up = rates["ours_2"] / rates["ours_1"]
    bare_up = rates["bare_2"] / rates["bare_1"]
    conclude(
        {
            "over_bare": round(ours_up / bare_up, 3),
            "ours_speed_up": round(ours_up, 3),
            "bare_speed_up": round(bare_up, 3),
            **{f"{name}_tokens_per_s": round(rate) for name, rate in rates.items()},
        }
    )


if __name__ == "__main__":
    main()
