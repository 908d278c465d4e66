"""The process that does units in a Ray cluster: it opens a stage once and runs its units."""

from __future__ import annotations

import dataclasses
import importlib
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray

from bathyscope.config import Config
from bathyscope.errors import BathyscopeError
from bathyscope.jobs.allocator import keep_freed_memory
from bathyscope.jobs.cluster_crew import Crew, follow
from bathyscope.jobs.cluster_metrics import Stored, WorkerMeter, stored
from bathyscope.jobs.schedule import Task
from bathyscope.jobs.unit import do_task, set_threads
from bathyscope.jobs.versions import versions
from bathyscope.jobs.world import Seat, free_port, meet
from bathyscope.runs.work import Work
from bathyscope.stages.stage import Outcome
from bathyscope.stores.leases import Lease
from bathyscope.stores.objects import Objects
from bathyscope.values import Receipt, Unit


@dataclass(frozen=True)
class Place:
    """Where a worker lives."""

    host: str
    pid: int
    node: str
    """Ray's name of the node."""
    versions: Mapping[str, str]
    meeting: tuple[str, int] = ("", 0)
    """Its address, and a port that was free there."""


@dataclass(frozen=True)
class StageJob:
    """What a worker must know of a stage; sent once, not with every unit."""

    stage: str
    """Module of the stage."""
    config: Config
    work: Work
    number: int = 0
    """Grows with every stage of a driver."""
    command: str = ""
    """URL of the run that the command was given for: it may do stages of others."""


class Did(NamedTuple):
    """What became of a unit."""

    done: bool
    """False when a stranger holds it."""
    seconds: float
    stored: Stored | None = None
    """What its receipt says, whoever made that."""


class Worker:
    """Lives in an actor. Its calls may overlap: one runs units, the others answer questions."""

    def __init__(self, threads: int, workers: int) -> None:
        keep_freed_memory()
        self._threads = (threads, workers)
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._progress: dict[int, tuple[float, str]] = {}
        self._stage: Any = None
        self._job: StageJob | None = None
        self._context: Any = None
        self._meter: WorkerMeter | None = None

    def join(self) -> dict[str, Any]:
        """Say where this is and what is installed: the fields of `Place`.

        Plain values, because another version of this package may be what is installed.
        """
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "versions": versions(),
            "meeting": (ray.util.get_node_ip_address(), free_port()),
        }

    def prepare(self, job: StageJob, seat: Seat | None = None, others: Sequence[Any] = ()) -> None:
        """Open a stage: load its model, or its readers. Raises what the stage raises.

        A process with a seat loads its part of the model; `others` are those that the first one
        leads. Stages that do not run a model are done by the first one alone. Nothing happens when
        a later stage was opened meanwhile.
        """
        with self._opening:
            if self._job is not None and self._job.number > job.number:
                return
            self._let_go()
            set_threads(*self._threads)
            stage: Any = importlib.import_module(job.stage)
            if seat is None or not _together(stage, job.config):
                if seat is None or seat.rank == 0:
                    self._context = stage.open(job.config, job.work)
            else:
                meet(seat, seconds=job.config.cluster.start_s)
                self._context = stage.open(job.config, job.work, (seat.rank, seat.world))
                stage = Crew(stage, job.work, others) if seat.rank == 0 else stage
            self._stage, self._job = stage, job
            self._meter = WorkerMeter(job.command or job.config.url, job.work.stage, self._context)

    def run(self, tasks: Sequence[Task]) -> list[Did]:
        """Do units, or do them again to compare, and say of each what became of it.

        Raises what the first of them raises. An error of a later one ends the list before it: done
        alone it will raise it. Receipts stay in the store: with their moments they may be
        megabytes.
        """
        # OpenMP keeps the count per thread, and this may be another one than last time.
        set_threads(*self._threads)
        did: list[Did] = []
        for task in tasks:
            started = time.monotonic()
            try:
                receipt = self._run(task)
            except BathyscopeError:
                if not did:
                    raise
                break
            what = None if receipt is None else stored(receipt)
            did.append(Did(receipt is not None, time.monotonic() - started, what))
        return did

    def follow(self, unit: Unit, number: int, lease: Lease | None) -> Outcome:
        """Do this process's part of a unit that another one leads. Raises what `follow` raises."""
        job = self._job
        assert job is not None, "a unit came before the stage was prepared"
        set_threads(*self._threads)
        return follow(
            self._stage,
            job.work,
            Objects(job.config.url).at(job.work.artifact),
            unit,
            self._context,
            number=number,
            lease=lease,
            report=lambda fraction, text: self._look(),
        )

    def progress(self) -> tuple[float, str]:
        """How much of the units under way is done, in units, and a few words."""
        # A model that waits for its writers reports nothing meanwhile.
        self._look()
        with self._lock:
            told = list(self._progress.values())
        return sum(fraction for fraction, _ in told), told[0][1] if told else ""

    def close(self) -> None:
        """Let go of the open stage: models and readers."""
        with self._opening:
            self._let_go()

    def _let_go(self) -> None:
        meter, self._meter = self._meter, None
        if meter is not None:
            meter.close()
        self._stage, self._job, self._context = None, None, None

    def _look(self) -> None:
        meter = self._meter
        if meter is not None:
            meter.look()

    def _run(self, task: Task) -> Receipt | None:
        job, stage = self._job, self._stage
        assert job is not None, "a unit came before the stage was prepared"

        def report(fraction: float, text: str) -> None:
            with self._lock:
                self._progress[task.unit] = fraction, text
            self._look()

        try:
            return do_task(
                stage,
                task,
                config=job.config,
                context=self._context,
                work=job.work,
                report=report,
            )
        finally:
            with self._lock:
                self._progress.pop(task.unit, None)


def _together(stage: Any, config: Config) -> bool:
    """Whether all processes of a replica do a unit of the stage together."""
    alone = hasattr(stage, "processes") and stage.processes(config) == 1
    return getattr(stage, "PARTS", False) and not alone


def with_absolute_paths(config: Config) -> Config:
    """The configuration for a process with another working directory."""

    def absolute(path: str | None) -> str | None:
        return os.path.abspath(path) if path and "://" not in path else path

    model = dataclasses.replace(
        config.model,
        path=absolute(config.model.path),
        offload_folder=absolute(config.model.offload_folder),
    )
    data = dataclasses.replace(
        config.data,
        paths=[str(absolute(p)) for p in config.data.paths],
        linux_doc=absolute(config.data.linux_doc),
        nlp_corpus=absolute(config.data.nlp_corpus),
    )
    url = absolute(config.url) or config.url
    return dataclasses.replace(
        config, url=url, cache=absolute(config.cache), model=model, data=data
    )
