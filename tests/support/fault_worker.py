"""A worker that does the units of a small store, and falls down where it is told to.

It runs the code that a run uses (`begin`, `do_unit`, `finish`) on a stage whose rows follow from
the unit alone. It is started as a process of its own: see `start`.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bathyscope.errors import BathyscopeError
from bathyscope.jobs import unit as jobs_unit
from bathyscope.runs.work import Work, begin, finish
from bathyscope.stages.stage import Outcome
from bathyscope.stores import files
from bathyscope.stores.leases import Leases
from bathyscope.stores.objects import Objects
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.units import write_unit
from bathyscope.values import UnitPlan

D, CHUNK, SHARD, PER_UNIT, UNITS = 16, 8, 32, 128, 6
ARTIFACT = "activations.zarr"
REFUSED = 3


@dataclasses.dataclass(frozen=True)
class Fall:
    """Where a worker falls: while it writes the nth file whose name holds a text."""

    signal: int
    name: str
    nth: int
    share: float
    """Of the bytes that are written before."""


@dataclasses.dataclass(frozen=True)
class Orders:
    """What a worker is told."""

    url: str
    said: str
    """File for what it has to say."""
    device: int = 0
    """Another device gives other bits."""
    lease_s: float = 600.0
    fall: Fall | None = None
    jumps: int | None = None
    """Seed of a clock that jumps by days at every look."""


def work() -> Work:
    """The same for every worker."""
    spec = ArraySpec("x", (D,), "uint16", "bfloat16", CHUNK, SHARD)
    plan = UnitPlan(
        (("train", 0, (UNITS - 2) * PER_UNIT), ("held_out", 0, 2 * PER_UNIT - 5)), PER_UNIT
    )
    return Work("harvest", ARTIFACT, {"stage": "harvest"}, plan, 1, (spec,), PER_UNIT)


def rows_of(unit: int, device: int = 0) -> Any:
    """The rows of a unit [valid, D], without a zero."""
    count = work().plan.unit(unit).num_items
    return np.random.default_rng([unit, device]).integers(1, 2**16, (count, D), dtype=np.uint16)


class Stage:
    """Rows that follow from the unit and the device."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    def run(self, unit: Any, context: Any, guard: Any) -> Outcome:
        """Write the rows of a unit."""
        rows = rows_of(unit.index, self._orders.device)
        objects = Objects(self._orders.url).at(ARTIFACT)
        shards = write_unit(objects, work().segment, unit=unit, rows={"x": rows}, check=guard.check)
        return Outcome(len(rows), shards)


def start(orders: Orders) -> Any:
    """The worker as a process that is under way."""
    context = multiprocessing.get_context("forkserver")
    # Imports take seconds; forks of a process that has done nothing else take none.
    context.set_forkserver_preload(["bathyscope.jobs.unit", "bathyscope.stores.units"])
    process = context.Process(target=main, args=(orders,))
    process.start()
    return process


def run(orders: Orders, timeout: float = 60.0) -> int:
    """Run a worker to its end; its exit code, negative for a signal."""
    process = start(orders)
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"a worker did not end in {timeout} s: {orders}")
    return int(process.exitcode)


def main(orders: Orders) -> None:
    """Do all units that are left, and finish the artifact."""
    os.setpgrp()
    if orders.fall:
        _arm(orders.fall)
    if orders.jumps is not None:
        jobs_unit.Leases = partial(Leases, clock=_jumping(orders.jumps))
    try:
        _do_all(orders)
    except BathyscopeError as error:
        Path(orders.said).write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        sys.exit(REFUSED)


def _do_all(orders: Orders) -> None:
    begun = begin(Objects(orders.url), work(), force=False)
    waiting = list(begun.remaining)
    while waiting:
        unit = waiting.pop(0)
        receipt = jobs_unit.do_unit(
            Stage(orders),
            unit,
            context=None,
            work=begun.work,
            objects=begun.objects,
            lease_s=orders.lease_s,
            report=lambda *_: None,
        )
        if receipt is None:
            waiting.append(unit)
            time.sleep(0.05)
    if not begun.complete:
        finish(begun, {})


def _jumping(seed: int) -> Any:
    draw = random.Random(seed)
    return lambda: time.time() + draw.uniform(-1e6, 1e6)


def _arm(fall: Fall) -> None:
    write_all, write = files._write_all, files.write
    left = [fall.nth]
    here = [False]

    def watched(path: Any, *args: Any, **settings: Any) -> bool:
        if fall.name in str(path):
            left[0] -= 1
            here[0] = left[0] == 0
        return write(path, *args, **settings)

    def half(descriptor: int, pieces: Any) -> None:
        if not here[0]:
            write_all(descriptor, pieces)
            return
        here[0] = False
        data = b"".join(bytes(p) for p in pieces)
        cut = int(fall.share * len(data))
        write_all(descriptor, [data[:cut]])
        os.kill(os.getpid(), fall.signal)
        write_all(descriptor, [data[cut:]])

    files._write_all, files.write = half, watched


STOP, KILL = signal.SIGSTOP, signal.SIGKILL
