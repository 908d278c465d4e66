"""Drives any stage over a Ray cluster: actors do units, this process only schedules.

Activations never pass through Ray: an actor writes its shards itself and returns a receipt. Ray
retries nothing; a worker that dies is replaced here, and its unit is given out again.
"""

from __future__ import annotations

import time
from pathlib import Path

from bathyscope.config import Config
from bathyscope.jobs.cluster_fleet import Fleet
from bathyscope.jobs.cluster_metrics import DriverMeter, why_not_exported
from bathyscope.jobs.cluster_ray import start_ray, stop_ray
from bathyscope.jobs.cluster_replica import Replica
from bathyscope.jobs.cluster_units import UnitLoop
from bathyscope.jobs.cluster_worker import StageJob, with_absolute_paths
from bathyscope.jobs.inline import finish
from bathyscope.jobs.sink import Sink
from bathyscope.jobs.world import largest_shape, shape_for
from bathyscope.runs.work import Begun, begin
from bathyscope.stages.stage import Stage
from bathyscope.stores.objects import Objects
from bathyscope.values import Json


class Cluster:
    """A Ray cluster, started here or joined, with workers that outlive stages.

    Nothing is started before the first unit needs it: refusals and runs that are up to date
    answer at once.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._fleet: Fleet | None = None
        self._loop: UnitLoop | None = None
        self._started = False
        self._failed = False
        self._folder: Path | None = None
        self._shape = config.cluster

    def drive(self, stage: Stage, sink: Sink, config: Config | None = None) -> Json:
        """Bring a stage's artifact to completion and return its figures.

        `config` is another one than the cluster's, for another run over the same workers.
        """
        config = config or self._config
        begun = begin(Objects(config.url), stage.units(config), force=config.force)
        sink.begin(begun)
        if begun.complete:
            return {}
        if begun.remaining:
            try:
                self._do_all(stage, config, begun, sink)
            except BaseException:
                self._failed = True
                raise
        return finish(stage, config, begun, sink)

    def worker_pids(self) -> list[int]:
        """Processes of the workers that have opened the stage, on whatever host they are."""
        return [replica.place.pid for replica in self.replicas() if replica.place is not None]

    def replicas(self) -> list[Replica]:
        """The workers that have opened the stage, each with the places of its processes."""
        return self._fleet.ready if self._fleet is not None else []

    def close(self) -> None:
        """Stop the workers, and Ray when it was started here."""
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None
        if self._started:
            self._started = False
            stop_ray(self._folder, failed=self._failed)

    def _do_all(self, stage: Stage, config: Config, begun: Begun, sink: Sink) -> None:
        shape = shape_for(stage, config, self._config.cluster)
        if self._fleet is not None and shape != self._shape:
            # Workers of another shape give their room back first.
            self._fleet.close()
            self._fleet = None
        if not self._started:
            self._started = True
            self._folder = start_ray(largest_shape(self._config))
            if (why := why_not_exported()) is not None:
                sink.note(why)
        if self._fleet is None:
            self._shape, self._fleet = shape, Fleet(shape)
        name = stage.__name__  # type: ignore[attr-defined]
        job = StageJob(name, with_absolute_paths(config), begun.work, command=self._config.url)
        self._fleet.open_stage(job, time.monotonic())
        meter = DriverMeter(self._config.url, begun.work.stage, begun.work.plan.num_units)
        self._loop = UnitLoop(config, stage, begun, self._fleet, sink, meter)
        self._loop.run()
        self._fleet.close_stage(time.monotonic(), sink)
