"""Drives any stage in this process. Knows nothing of Ray."""

from __future__ import annotations

import time
from typing import Any

from bathyscope.config import Config
from bathyscope.jobs.audit import audited
from bathyscope.jobs.packing import Packing
from bathyscope.jobs.schedule import Schedule, Task
from bathyscope.jobs.sink import Sink
from bathyscope.jobs.stopping import StopRequest, stopped
from bathyscope.jobs.unit import audit_unit, do_unit, set_threads
from bathyscope.runs.work import Begun, begin
from bathyscope.stages.stage import Stage
from bathyscope.stores.compaction import compact
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.values import Json

_WAIT_S = 0.5
_HERE = "this process"


class Inline:
    """Runs units one after another, here."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.threads = set_threads(config.cluster.threads)

    def drive(self, stage: Stage, sink: Sink) -> Json:
        """Bring a stage's artifact to completion and return its figures."""
        config = self._config
        begun = begin(Objects(config.url), stage.units(config), force=config.force)
        sink.begin(begun)
        if begun.complete:
            return {}
        _Units(stage, config, begun, sink).run()
        return finish(stage, config, begun, sink)

    def close(self) -> None:
        """Nothing is held."""


def finish(stage: Stage, config: Config, begun: Begun, sink: Sink) -> Json:
    """Pack the receipts and close the artifact from all of them."""
    receipts = Receipts(begun.objects, begun.work.segment.name)
    compact(receipts, begun.work.plan)
    facts = stage.finish(config, begun, StoredReceipts(receipts))
    sink.end(begun, facts)
    return facts


class _Units:
    """The units of one stage that are left, done here one after another."""

    def __init__(self, stage: Stage, config: Config, begun: Begun, sink: Sink) -> None:
        self._stage = stage
        self._config = config
        self._begun = begun
        self._sink = sink
        self._before = begun.work.plan.num_units - len(begun.remaining)
        self._schedule = Schedule(
            begun.remaining.indices, audited=audited(stage, begun, config.cluster.audit)
        )

    def run(self) -> None:
        """Until every unit is done. Raises `StopRequested` after a signal."""
        if not self._begun.remaining:
            return
        schedule = self._schedule
        context = self._stage.open(self._config, self._begun.work)
        with Packing(self._begun) as packing, StopRequest() as stop:
            while not schedule.finished:
                if stop.asked:
                    raise stopped(stop, self._begun, self._done)
                task = schedule.next(_HERE, time.monotonic())
                if task is None:
                    time.sleep(_WAIT_S)
                elif task.audit:
                    self._audit(task, context)
                elif self._do(task, context, stop):
                    packing.unit_done()
                    self._sink.progress(self._done, "")

    @property
    def _done(self) -> int:
        return self._before + self._schedule.done

    def _do(self, task: Task, context: Any, stop: StopRequest) -> bool:
        """Do a unit; False when another process holds it."""

        def report(fraction: float, text: str) -> None:
            if stop.asked and stop.seconds > self._config.cluster.drain_s:
                raise stopped(stop, self._begun, self._done)
            self._sink.progress(self._done + fraction, text)

        receipt = do_unit(
            self._stage,
            self._begun.work.plan.unit(task.unit),
            context=context,
            work=self._begun.work,
            objects=self._begun.objects,
            lease_s=self._config.store.lease_s,
            report=report,
        )
        if receipt is None:
            self._sink.note(f"unit {task.unit} is held by another worker; waiting for it")
            self._schedule.held(_HERE, time.monotonic())
            return False
        return self._schedule.succeeded(_HERE, time.monotonic())

    def _audit(self, task: Task, context: Any) -> None:
        audit_unit(
            self._stage,
            self._begun.work.plan.unit(task.unit),
            context=context,
            work=self._begun.work,
            objects=self._begun.objects,
            report=lambda fraction, text: None,
        )
        self._schedule.succeeded(_HERE, time.monotonic())
