"""Drives stages: inline in this process, or over a Ray cluster."""

from __future__ import annotations

from typing import Protocol

from bathyscope.config import Config
from bathyscope.jobs.sink import Sink
from bathyscope.stages.stage import Stage
from bathyscope.values import Json


class Driver(Protocol):
    """Brings stages to completion, one after another."""

    def drive(self, stage: Stage, sink: Sink, config: Config | None = None) -> Json:
        """Complete a stage's artifact and return its figures, of the driver's run or another."""
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...


def open_driver(config: Config) -> Driver:
    """The driver that `cluster.kind` names. Ray is imported only when it is asked for."""
    if config.cluster.kind == "inline":
        from bathyscope.jobs.inline import Inline

        return Inline(config)
    from bathyscope.jobs.cluster import Cluster

    return Cluster(config)
