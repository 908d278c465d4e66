#!/usr/bin/env python
"""A million simulated units over 1,024 simulated workers that die at random: time and memory.

    python tests/benchmarks/schedule.py

The schedule is the one of a cluster run; workers, deaths and the clock are simulated: units take
60 seconds, some ten times as long, and one worker in a thousand units dies and comes back later.
"""

from __future__ import annotations

import heapq
import time

import numpy as np
import psutil

from bathyscope.jobs.schedule import Limits, Schedule
from bench import conclude

UNITS, WORKERS = 1_000_000, 1024
DEATHS, SLOW = 0.001, 0.001


def main() -> None:
    """Simulate to the end."""
    process = psutil.Process()
    rng = np.random.default_rng(0)
    schedule = Schedule(np.arange(UNITS), Limits(unit_failures=20))
    # (when, worker, whether it dies then)
    events: list[tuple[float, int, bool]] = []
    idle = list(range(WORKERS))
    away: list[tuple[float, int]] = []
    now, deaths, handed, memory = 0.0, 0, 0, []
    start = time.perf_counter()
    while not schedule.finished:
        while idle and (task := schedule.next(idle[-1], now)) is not None:
            handed += 1
            takes = 60 * (0.8 + 0.4 * rng.random()) * (10 if rng.random() < SLOW else 1)
            heapq.heappush(events, (now + takes, idle.pop(), bool(rng.random() < DEATHS)))
            del task
        if events:
            now, worker, dies = heapq.heappop(events)
            if dies:
                deaths += 1
                schedule.failed(worker, now, "it died")
                heapq.heappush(away, (now + 300, worker))
            else:
                schedule.succeeded(worker, now)
                idle.append(worker)
        else:
            now += 1.0
        while away and away[0][0] <= now:
            idle.append(heapq.heappop(away)[1])
        if schedule.done % 50_000 == 0:
            memory.append(process.memory_info().rss)
    took = time.perf_counter() - start
    conclude(
        {
            "units": schedule.done,
            "workers": WORKERS,
            "seconds": round(took, 1),
            "deaths": deaths,
            "handed_out_again": handed - UNITS,
            "simulated_hours": round(now / 3600, 1),
            "growth_mb": round((memory[-1] - memory[0]) / 1e6, 1),
        }
    )


if __name__ == "__main__":
    main()
