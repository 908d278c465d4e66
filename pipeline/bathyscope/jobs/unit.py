"""Does one unit: lease, work, receipt. The same code inline and in a Ray worker."""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from bathyscope.config import Config
from bathyscope.errors import LeaseLost, StoreError
from bathyscope.jobs.schedule import Task
from bathyscope.runs.work import Work
from bathyscope.stages.stage import Outcome, Stage
from bathyscope.stores.leases import Lease, Leases
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.values import Json, Receipt, Unit

Progress = Callable[[float, str], None]


class UnitGuard:
    """Confirms the lease while a unit runs and passes its progress on; for several threads."""

    keep = True
    turn: int | None = None

    def __init__(self, leases: Leases, lease: Lease, report: Progress) -> None:
        self._leases = leases
        self._report = report
        # A renewal by one writer must not look to another one as if a stranger had the lease.
        self._checking = threading.Lock()
        self._checked_at = time.monotonic()
        self.lease = lease

    def check(self) -> None:
        """Confirm the lease, renewing it when half of its time is gone."""
        with self._checking:
            self.lease = self._leases.check(self.lease)
            self._checked_at = time.monotonic()

    def progress(self, fraction: float, text: str = "") -> None:
        """Say how far the unit is; a lease is confirmed also while no shard is full for long."""
        if time.monotonic() - self._checked_at > self.lease.seconds / 4:
            self.check()
        self._report(fraction, text)


class FollowerGuard:
    """Confirms the lease of another process, which leads; for several threads."""

    keep = True
    turn: int | None = None

    def __init__(self, leases: Leases, lease: Lease, report: Progress) -> None:
        self._leases = leases
        self._lease = lease
        self._report = report

    def check(self) -> None:
        """Confirm that the leader's claim stands. Raises `LeaseLost`."""
        ours, now = self._lease, self._leases.current(self._lease.unit)
        # Renewals change its term; another claim changes its attempt, and giving back its length.
        if (
            now is None
            or (now.holder, now.attempt) != (ours.holder, ours.attempt)
            or not now.seconds
        ):
            raise LeaseLost(
                f"Unit {ours.unit} is no longer held by process {ours.holder.pid} on "
                f"{ours.holder.host}, which leads this one. This process stops; nothing is lost."
            )

    def progress(self, fraction: float, text: str = "") -> None:
        """Say how far this process is; the leader tells others."""
        self._report(fraction, text)


class AuditGuard:
    """Stands by while a unit is done again to compare: nothing is stored, no lease is needed."""

    keep = False
    turn: int | None = None

    def __init__(self, report: Progress) -> None:
        self._report = report

    def check(self) -> None:
        """Nothing can be lost."""

    def progress(self, fraction: float, text: str = "") -> None:
        """Say how far the unit is."""
        self._report(fraction, text)


def do_task(
    stage: Stage, task: Task, *, config: Config, context: Any, work: Work, report: Progress
) -> Receipt | None:
    """Do the unit of a task, or do it again to compare; None when a stranger holds it.

    The receipt is that of whoever did the unit first. Raises what `do_unit` and `audit_unit` raise.
    """
    unit = work.plan.unit(task.unit)
    objects = Objects(config.url).at(work.artifact)
    if task.audit:
        return audit_unit(stage, unit, context=context, work=work, objects=objects, report=report)
    return do_unit(
        stage,
        unit,
        context=context,
        work=work,
        objects=objects,
        lease_s=config.store.lease_s,
        report=report,
        take_over=task.take_over,
    )


def do_unit(
    stage: Stage,
    unit: Unit,
    *,
    context: Any,
    work: Work,
    objects: Objects,
    lease_s: float,
    report: Progress,
    take_over: bool = False,
) -> Receipt | None:
    """Do a unit unless it is done; None when another worker holds it.

    `objects` is the folder of the artifact. `take_over` takes the unit from a worker that is
    given up.

    Raises what the stage raises, `LeaseLost`, and `ReceiptConflict`.
    """
    segment = work.segment.name
    receipts = Receipts(objects, segment)
    leases = Leases(objects, segment, seconds=lease_s)
    lease = leases.take_over(unit.index) if take_over else leases.claim(unit.index)
    if lease is None:
        return receipts.get(unit.index)
    guard = UnitGuard(leases, lease, report)
    try:
        # After the claim, so that no other worker can do it in between.
        receipt = receipts.get(unit.index)
        if receipt is None:
            started = time.monotonic()
            outcome = stage.run(unit, context, guard)
            guard.check()
            seconds = time.monotonic() - started
            receipt = receipts.create(_receipt(unit, outcome, guard.lease, seconds))
    except BaseException:
        # Whoever tries it again, on whatever host, need not wait for the lease to end.
        with suppress(StoreError):
            leases.give_back(guard.lease)
        raise
    leases.release(unit.index)
    return receipt


def audit_unit(
    stage: Stage,
    unit: Unit,
    *,
    context: Any,
    work: Work,
    objects: Objects,
    report: Progress,
) -> Receipt:
    """Do a unit that is done already and compare; nothing is stored.

    Raises what the stage raises, and `ReceiptConflict` when another result comes out: then the
    receipt is set aside, and the unit counts as not done.
    """
    outcome = stage.run(unit, context, AuditGuard(report))
    receipt = _receipt(unit, outcome, lease=None)
    Receipts(objects, work.segment.name).compare(receipt)
    return receipt


def set_threads(threads: int, workers: int = 1) -> int:
    """Fix the number of CPU threads: results depend on it, so it is never left to chance."""
    count = threads or max((os.cpu_count() or 1) // workers, 1)
    torch.set_num_threads(count)
    return count


def _receipt(unit: Unit, outcome: Outcome, lease: Lease | None, seconds: float = 0.0) -> Receipt:
    return Receipt(
        unit=unit.index,
        term=0 if lease is None else lease.term,
        valid=outcome.valid,
        shards=outcome.shards,
        moments=outcome.moments,
        figures=outcome.figures,
        writer={
            **_writer(),
            "attempt": 0 if lease is None else lease.attempt,
            "at": round(time.time(), 3),
            "seconds": round(seconds, 3),
        },
    )


def _writer() -> Json:
    cuda = torch.cuda.is_available()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": torch.cuda.get_device_name() if cuda else f"cpu {platform.machine()}",
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
