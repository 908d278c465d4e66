"""Processes that hold parts of one model: who is who, and how they meet."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from bathyscope.config import ClusterConfig, Config


@dataclass(frozen=True)
class Seat:
    """The place of a process among those of a replica."""

    rank: int
    world: int
    """Processes of the replica."""
    address: str
    """Where they meet: `tcp://host:port` on the host of rank 0."""


def processes_of_replica(settings: ClusterConfig) -> int:
    """Processes of a replica: its stages, or one for each of its GPUs; 1 for accelerate."""
    if settings.replica != "pipeline":
        return 1
    return settings.stages or settings.gpus_per_worker


def shape_for(stage: Any, config: Config, settings: ClusterConfig) -> ClusterConfig:
    """The cluster's settings as a stage needs its workers: one replica of so many processes.

    A stage says how many by `processes(config)`; with one, or without saying, workers stay as set.
    """
    return _shape(stage.processes(config) if hasattr(stage, "processes") else 1, settings)


def largest_shape(config: Config) -> ClusterConfig:
    """The settings that ask for the most processes, of all stages of a run."""
    shapes = (config.cluster, _shape(config.train.processes, config.cluster))
    return max(shapes, key=lambda shape: shape.workers * processes_of_replica(shape))


def _shape(processes: int, settings: ClusterConfig) -> ClusterConfig:
    if processes == 1:
        return settings
    # Each process trains on one GPU where workers have any.
    return replace(
        settings,
        workers=1,
        min_workers=1,
        replica="pipeline",
        stages=processes,
        gpus_per_worker=processes if settings.gpus_per_worker else 0,
    )


def gpus_of_process(settings: ClusterConfig) -> int:
    """GPUs of one process of a replica."""
    return settings.gpus_per_worker // processes_of_replica(settings)


def seats(addresses: Sequence[tuple[str, int]]) -> list[Seat]:
    """The seats of processes with these hosts and free ports, in order; one is not seated."""
    host, port = addresses[0]
    return [Seat(rank, len(addresses), f"tcp://{host}:{port}") for rank in range(len(addresses))]


def meet(seat: Seat, *, seconds: float) -> None:
    """Join the processes of the replica; returns at once when that was done before.

    They talk over NCCL between GPUs and over gloo between CPUs. Raises what torch raises when
    others do not come in so many seconds.
    """
    if dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend,
        init_method=seat.address,
        rank=seat.rank,
        world_size=seat.world,
        timeout=timedelta(seconds=seconds),
    )


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])
