"""Ray itself: starts or joins a cluster, tells what it has, and which nodes are about to go."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import ray
from ray.exceptions import RayTaskError

from bathyscope.config import ClusterConfig
from bathyscope.errors import BathyscopeError, ConfigError
from bathyscope.jobs.world import gpus_of_process, processes_of_replica

logger = logging.getLogger(__name__)

_LONGEST_PLACE = 28


def start_ray(settings: ClusterConfig) -> Path | None:
    """Join the cluster at `address`, or start one on this machine with room for all workers.

    Returns the folder of a cluster that was started here, for `stop_ray`. Every job has a namespace
    of its own. Lines that workers print stay in Ray's logs on their nodes: hundreds of workers
    would bury the driver's, and errors come back with the calls.
    """
    namespace = f"bathyscope-{uuid.uuid4().hex[:12]}"
    if settings.kind == "address":
        ray.init(
            address=settings.address,
            namespace=namespace,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
        return None
    folder = _own_folder()
    ray.init(
        # Without it Ray joins whatever it finds: RAY_ADDRESS, or another run on this machine.
        address="local",
        namespace=namespace,
        include_dashboard=False,
        num_cpus=_cpus(settings),
        object_store_memory=settings.object_store_bytes,
        logging_level=logging.WARNING,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=str(folder),
    )
    try:
        _check_local(settings)
    except ConfigError:
        stop_ray(folder, failed=False)
        raise
    return folder


def stop_ray(folder: Path | None, *, failed: bool) -> None:
    """Leave the cluster, and stop it where it was started here; its logs stay after a failure."""
    ray.shutdown()
    if folder is None:
        return
    if failed:
        logger.warning("logs of Ray and its workers: %s", folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _own_folder() -> Path:
    """A folder of this job alone, which Ray leaves hundreds of kilobytes in.

    In `RAY_TMPDIR`, or where temporary files go if that is short: the paths of Unix sockets in it
    end at 107 characters.
    """
    given = os.environ.get("RAY_TMPDIR")
    place = given or (found if len(found := tempfile.gettempdir()) <= _LONGEST_PLACE else "/tmp")
    return Path(tempfile.mkdtemp(prefix="ray-", dir=place))


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
