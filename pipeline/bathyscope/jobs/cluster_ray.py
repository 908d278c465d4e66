"""Ray itself: starts or joins a cluster, tells what it has, and which nodes are about to go."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

import ray
from ray.exceptions import RayTaskError

from bathyscope.config import ClusterConfig
from bathyscope.errors import BathyscopeError, ConfigError
from bathyscope.jobs.world import gpus_of_process, processes_of_replica

logger = logging.getLogger(__name__)


def start_ray(settings: ClusterConfig) -> None:
    """Join the cluster at `address`, or start one on this machine with room for all workers."""
    if settings.kind == "address":
        ray.init(address=settings.address, logging_level=logging.WARNING)
        return
    ray.init(
        # Without it Ray joins whatever it finds: RAY_ADDRESS, or another run on this machine.
        address="local",
        include_dashboard=False,
        num_cpus=_cpus(settings),
        object_store_memory=settings.object_store_bytes,
        logging_level=logging.WARNING,
        log_to_driver=False,
        configure_logging=False,
    )
    _check_local(settings)


def resources_of_process(settings: ClusterConfig) -> dict[str, float]:
    """What one process of a replica takes of a node."""
    found = {"CPU": float(settings.threads or 1)}
    if gpus_of_process(settings):
        found["GPU"] = float(gpus_of_process(settings))
    return found


def why_waiting(settings: ClusterConfig) -> str:
    """What a worker needs and what the cluster has, for a person who waits."""
    need, have = resources_of_process(settings), ray.cluster_resources()
    free = ray.available_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    per_kind = "; ".join(
        f"{kind}: {need[kind]:g} wanted, {have.get(kind, 0):g} in the cluster, "
        f"{free.get(kind, 0):g} free"
        for kind in need
    )
    count = processes_of_replica(settings)
    what = "each worker" if count == 1 else f"each of {count} processes of a worker"
    return f"{what} must fit on one of {nodes} node(s). {per_kind}"


def own_error(error: Exception) -> Exception:
    """Our own error as it was raised in another process, or the error itself when it is none."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return cause if isinstance(cause, BathyscopeError) else error


def draining_nodes() -> dict[str, float | None]:
    """Nodes that will be taken away -> seconds left, None where no deadline is known.

    A spot instance that got its notice, or a node that an autoscaler empties.
    """
    # Ray has no public name for this; Ray Train asks the same way.
    from ray._private.state import state

    asked = getattr(state, "get_draining_nodes", None)
    if asked is None:
        return {}
    # Deadlines are milliseconds since the epoch, 0 for none.
    now = time.time()
    found: Mapping[str, int] = asked()
    return {node: (ms / 1000 - now if ms else None) for node, ms in found.items()}


def _cpus(settings: ClusterConfig) -> int:
    """Slots of a local cluster: who asks for more workers than cores gets them."""
    wanted = settings.workers * processes_of_replica(settings) * (settings.threads or 1)
    have = os.cpu_count() or 1
    if wanted > have:
        logger.warning("%d threads of workers share %d cores", wanted, have)
    return max(wanted, have)


def _check_local(settings: ClusterConfig) -> None:
    have = ray.cluster_resources().get("GPU", 0)
    wanted = settings.gpus_per_worker
    if wanted > have:
        raise ConfigError(
            f"cluster.gpus_per_worker is {wanted}, but Ray finds {have:g} GPUs on this machine. "
            "Choose fewer, or join a cluster with cluster=address."
        )
