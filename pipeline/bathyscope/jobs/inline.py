"""Drives any stage in this process. Knows nothing of Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any

from bathyscope.config import Config
from bathyscope.jobs.allocator import keep_freed_memory
from bathyscope.jobs.audit import audited
from bathyscope.jobs.packing import Packing
from bathyscope.jobs.schedule import Schedule, Task
from bathyscope.jobs.sink import Sink
from bathyscope.jobs.stopping import StopRequest, stopped
from bathyscope.jobs.unit import do_task, set_threads
from bathyscope.runs.work import Begun, begin
from bathyscope.stages.stage import Stage
from bathyscope.stores.compaction import compact
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.values import Json

_WAIT_S = 0.5


class Inline:
    """Runs units one after another, here."""

    def __init__(self, config: Config) -> None:
        self._config = config
        keep_freed_memory()
        self.threads = set_threads(config.cluster.threads)

    def drive(self, stage: Stage, sink: Sink, config: Config | None = None) -> Json:
        """Bring a stage's artifact to completion and return its figures.

        `config` is another one than the driver's, for another run or another dictionary.
        """
        config = config or self._config
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
    """The units of one stage that are left, done in this process."""

    def __init__(self, stage: Stage, config: Config, begun: Begun, sink: Sink) -> None:
        self._stage = stage
        self._config = config
        self._begun = begun
        self._sink = sink
        self._before = begun.work.plan.num_units - len(begun.remaining)
        self._schedule = Schedule(
            begun.remaining.indices,
            audited=audited(stage, begun, config.cluster.audit),
            owner=lambda lane: "this process",
        )
        self._lanes: int = getattr(stage, "LANES", 1)
        self._stop = StopRequest()
        self._ended = False
        self._shares: dict[int, float] = {}
        # Two units report at a time, and neither sinks nor the shares are made for that.
        self._telling = Lock()

    def run(self) -> None:
        """Until every unit is done. Raises `StopRequested` after a signal."""
        if not self._begun.remaining:
            return
        context = self._stage.open(self._config, self._begun.work)
        with Packing(self._begun) as packing, self._stop, _pool(self._lanes) as pool:
            running: dict[Future[bool], int] = {}
            try:
                while not self._schedule.finished:
                    if not self._stop.asked:
                        self._hand_out(pool, running, context)
                    elif not running:
                        raise stopped(self._stop, self._begun, self._done)
                    ready, _ = wait(running, timeout=_WAIT_S, return_when=FIRST_COMPLETED)
                    for future in ready:
                        if self._collect(future, running.pop(future)):
                            packing.unit_done()
                            with self._telling:
                                self._sink.progress(self._done, "")
            finally:
                # Threads cannot be stopped; units end at their next report.
                self._ended = True

    @property
    def _done(self) -> int:
        return self._before + self._schedule.done

    def _hand_out(self, pool: Executor, running: dict[Future[bool], int], context: Any) -> None:
        for lane in range(self._lanes):
            if self._schedule.unit_of(lane) is None:
                task = self._schedule.next(lane, time.monotonic())
                if task is not None:
                    running[pool.submit(self._do, task, context)] = lane
        if not running:
            time.sleep(_WAIT_S)

    def _collect(self, future: Future[bool], lane: int) -> bool:
        """Note what became of a unit; whether it is done now and was not before."""
        unit = self._schedule.unit_of(lane)
        if future.result():
            return self._schedule.succeeded(lane, time.monotonic())
        self._sink.note(f"unit {unit} is held by another worker; waiting for it")
        self._schedule.held(lane, time.monotonic())
        return False

    def _do(self, task: Task, context: Any) -> bool:
        """Do a unit, or do it again to compare; False when another process holds it."""
        # OpenMP keeps the count per thread, and this is one of the pool's.
        set_threads(self._config.cluster.threads)

        def report(fraction: float, text: str) -> None:
            late = self._stop.asked and self._stop.seconds > self._config.cluster.drain_s
            if self._ended or late:
                raise stopped(self._stop, self._begun, self._done)
            with self._telling:
                self._shares[task.unit] = fraction
                self._sink.progress(self._done + sum(self._shares.values()), text)

        try:
            receipt = do_task(
                self._stage,
                task,
                config=self._config,
                context=context,
                work=self._begun.work,
                report=report,
            )
            return receipt is not None
        finally:
            with self._telling:
                self._shares.pop(task.unit, None)


class _Here(Executor):
    """Does what is submitted at once, in the calling thread: ^C ends it wherever it is."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The finished future of the call; errors are raised, not kept."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _pool(lanes: int) -> Executor:
    return _Here() if lanes == 1 else ThreadPoolExecutor(lanes, "unit")
