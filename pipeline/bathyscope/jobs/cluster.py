"""Drives any stage over a Ray cluster: actors do units, this process only schedules.

Activations never pass through Ray: an actor writes its shards itself and returns a receipt. Ray
retries nothing; a worker that dies is replaced here, and its unit is given out again.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import threading
import time
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from bathyscope.config import ClusterConfig, Config
from bathyscope.errors import BathyscopeError, JobError, LeaseLost, ReceiptConflict, StoreError
from bathyscope.jobs.inline import finish
from bathyscope.jobs.packing import Packing
from bathyscope.jobs.schedule import Limits, Schedule
from bathyscope.jobs.sink import Sink
from bathyscope.jobs.unit import do_unit, set_threads
from bathyscope.jobs.versions import check_versions, versions
from bathyscope.runs.work import Begun, Work, begin
from bathyscope.stages.stage import Stage
from bathyscope.stores.objects import Objects
from bathyscope.values import Json, Receipt, Unit

_POLL_S = 0.5


class Worker:
    """Lives in an actor: opens stages, runs units, tells how far it is."""

    def __init__(self, threads: int, workers: int, driver_versions: dict[str, str]) -> None:
        self._threads = (threads, workers)
        self._driver_versions = driver_versions
        self._key: tuple[str, str] | None = None
        self._context: Any = None
        self._progress = (0.0, "")
        self._begun: int | None = None
        self._lock = threading.Lock()

    def run(
        self, stage_name: str, config: Config, work: Work, unit: Unit, take_over: bool
    ) -> Receipt | None:
        """Do one unit, opening the stage first when it is another than before.

        Raises `JobError` when versions here differ from the driver's.
        """
        # Not in the constructor: an error there would look like a death.
        check_versions(self._driver_versions)
        # OpenMP keeps the count per thread, and this may be another one than last time.
        set_threads(*self._threads)
        stage: Any = importlib.import_module(stage_name)
        key = (stage_name, work.segment.name)
        if self._key != key:
            self._context = None
            self._context = stage.open(config, work)
            self._key = key
        self._report(0.0, "")
        self._begun = unit.index
        return do_unit(
            stage,
            unit,
            context=self._context,
            work=work,
            objects=Objects(config.url).at(work.artifact),
            lease_s=config.store.lease_s,
            report=self._report,
            take_over=take_over,
        )

    def progress(self) -> tuple[float, str, int | None]:
        """Fraction of the unit under way, a few words, and the unit that was begun last."""
        with self._lock:
            return (*self._progress, self._begun)

    def pid(self) -> int:
        """Process of this worker."""
        return os.getpid()

    def close(self) -> None:
        """Let go of the open stage: models and readers."""
        self._key, self._context = None, None

    def _report(self, fraction: float, text: str) -> None:
        with self._lock:
            self._progress = (fraction, text)


class Cluster:
    """A Ray cluster, started here or joined, with workers that outlive stages.

    Nothing is started before the first unit needs it: refusals and runs that are up to date
    answer at once.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._settings = config.cluster
        self._actors: list[Any] = []
        self._failures = 0

    def drive(self, stage: Stage, sink: Sink) -> Json:
        """Bring a stage's artifact to completion and return its figures."""
        config = self._config
        begun = begin(Objects(config.url), stage.units(config), force=config.force)
        sink.begin(begun)
        if begun.complete:
            return {}
        if begun.remaining:
            self._start()
            self._do_all(stage, begun, sink)
        ray.get([actor.close.remote() for actor in self._actors])
        return finish(stage, config, begun, sink)

    def worker_pids(self) -> list[int]:
        """Processes of the workers, on whatever host they are."""
        return list(ray.get([actor.pid.remote() for actor in self._actors]))

    def close(self) -> None:
        """Stop the workers, and Ray when it was started here."""
        for actor in self._actors:
            ray.kill(actor)
        if self._actors:
            ray.shutdown()

    def _start(self) -> None:
        if not self._actors:
            _start_ray(self._settings)
            self._actors = [self._new_actor() for _ in range(self._settings.workers)]

    def _do_all(self, stage: Stage, begun: Begun, sink: Sink) -> None:
        name = stage.__name__  # type: ignore[attr-defined]
        settings = self._settings
        limits = Limits(
            unit_failures=settings.max_failures,
            straggler_factor=settings.straggler_factor,
            straggler_least_s=settings.straggler_least_s,
            start_s=settings.start_s,
        )
        schedule = Schedule(begun.remaining.indices, limits)
        running: dict[Any, Any] = {}
        done = begun.work.plan.num_units - len(begun.remaining)
        with Packing(begun) as packing:
            while not schedule.finished:
                self._hand_out(name, begun, schedule, running, sink)
                if not running:
                    # Every unit that is left failed, and waits for its next turn.
                    time.sleep(_POLL_S)
                    continue
                ready, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_S)
                if not ready:
                    self._give_up(schedule, running, sink)
                    self._tell(sink, done + schedule.done, schedule, list(running.values()))
                    continue
                actor = running.pop(ready[0])
                if self._collect(ready[0], actor, schedule, sink):
                    packing.unit_done()
                    sink.progress(done + schedule.done, "")
        for actor in running.values():
            # Their units were done by others: they hang, or are very slow.
            self._replace(actor)

    def _hand_out(
        self,
        stage_name: str,
        begun: Begun,
        schedule: Schedule,
        running: dict[Any, Any],
        sink: Sink,
    ) -> None:
        config = with_absolute_paths(self._config)
        for actor in self._actors:
            if schedule.unit_of(actor) is not None:
                continue
            task = schedule.next(actor, time.monotonic())
            if task is None:
                return
            if task.take_over:
                sink.note(f"unit {task.unit} takes very long; another worker does it too")
            unit = begun.work.plan.unit(task.unit)
            future = actor.run.remote(stage_name, config, begun.work, unit, task.take_over)
            running[future] = actor

    def _give_up(self, schedule: Schedule, running: dict[Any, Any], sink: Sink) -> None:
        """Replace workers that hang."""
        now = time.monotonic()
        for future, actor in list(running.items()):
            if schedule.hopeless(actor, now):
                unit = schedule.unit_of(actor)
                del running[future]
                self._replace(actor)
                schedule.failed(actor, now, "its worker hung")
                sink.note(f"a worker hangs on unit {unit}; a new one takes its place")

    def _collect(self, future: Any, actor: Any, schedule: Schedule, sink: Sink) -> bool:
        """Note what became of a unit; whether it is done now and was not before."""
        unit, now = schedule.unit_of(actor), time.monotonic()
        try:
            receipt: Receipt | None = ray.get(future)
        except (ActorDiedError, ActorUnavailableError) as error:
            self._count_failure(unit, error)
            self._replace(actor)
            schedule.failed(actor, now, "its worker died")
            sink.note(f"a worker died on unit {unit}; a new one takes it over")
            return False
        except RayTaskError as error:
            self._judge(_cause(error), actor, schedule, sink)
            return False
        if receipt is None:
            sink.note(f"unit {unit} is held by another worker; waiting for it")
            schedule.held(actor, now)
            return False
        return schedule.succeeded(actor, now)

    def _judge(self, cause: Exception, actor: Any, schedule: Schedule, sink: Sink) -> None:
        """Go on after an error of a unit that may pass; raise any other."""
        if isinstance(cause, LeaseLost):
            schedule.superseded(actor)
        elif isinstance(cause, StoreError) and not isinstance(cause, ReceiptConflict):
            unit = schedule.unit_of(actor)
            schedule.failed(actor, time.monotonic(), str(cause))
            sink.note(f"unit {unit} is tried again: {cause}")
        else:
            raise cause

    def _count_failure(self, unit: int | None, error: Exception) -> None:
        self._failures += 1
        if self._failures > self._settings.max_failures:
            raise JobError(
                f"{self._failures} workers died, the last one on unit {unit}; "
                f"cluster.max_failures is {self._settings.max_failures}. Finished units are kept: "
                "look for too little memory or a failing node, then run the same command again."
            ) from error

    def _replace(self, actor: Any) -> None:
        ray.kill(actor)
        self._actors[self._actors.index(actor)] = self._new_actor()

    def _tell(self, sink: Sink, done: int, schedule: Schedule, actors: list[Any]) -> None:
        asked = {actor.progress.remote(): actor for actor in actors}
        if not asked:
            return
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_POLL_S)
        told = []
        for future in answered:
            actor = asked[future]
            try:
                fraction, text, begun = ray.get(future)
            except (ActorDiedError, ActorUnavailableError):
                continue
            if begun == schedule.unit_of(actor):
                schedule.began(actor, time.monotonic())
                told.append((fraction, text))
        if told:
            sink.progress(done + sum(f for f, _ in told), told[0][1])

    def _new_actor(self) -> Any:
        settings = self._settings
        options = {
            "num_cpus": settings.threads or 1,
            "num_gpus": settings.gpus_per_worker,
            "max_restarts": 0,
            # One thread runs units, the other answers questions about progress.
            "max_concurrency": 2,
        }
        worker = ray.remote(Worker).options(**options)
        return worker.remote(settings.threads, settings.workers, versions())


def with_absolute_paths(config: Config) -> Config:
    """The configuration for a process with another working directory."""

    def absolute(path: str | None) -> str | None:
        return os.path.abspath(path) if path and "://" not in path else path

    model = dataclasses.replace(
        config.model,
        path=absolute(config.model.path),
        offload_folder=absolute(config.model.offload_folder),
    )
    data = dataclasses.replace(config.data, paths=[str(absolute(p)) for p in config.data.paths])
    url = absolute(config.url) or config.url
    return dataclasses.replace(
        config, url=url, cache=absolute(config.cache), model=model, data=data
    )


def _start_ray(settings: ClusterConfig) -> None:
    if settings.kind == "address":
        ray.init(address=settings.address, logging_level=logging.WARNING)
        return
    ray.init(
        include_dashboard=False,
        object_store_memory=settings.object_store_bytes,
        logging_level=logging.WARNING,
        log_to_driver=False,
        configure_logging=False,
    )


def _cause(error: RayTaskError) -> Exception:
    """Our own error as it was raised in the worker, or Ray's when it is another's."""
    cause = error.cause
    return cause if isinstance(cause, BathyscopeError) else error
