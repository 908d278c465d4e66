"""Several Ray nodes on one machine: real raylets, with room for one worker each."""

from __future__ import annotations

import time
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster as RayNodes

# Ray asks every three seconds and waits for ten by default.
QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 4,
}


def start_head(**system: Any) -> RayNodes:
    """A head node on which no worker fits; `system` are settings of Ray itself."""
    args: dict[str, Any] = {"num_cpus": 0, "include_dashboard": False}
    if system:
        args["_system_config"] = system
    return RayNodes(initialize_head=True, head_node_args=args)


def add_node(nodes: RayNodes, *, gpus: int = 0, **environment: str) -> Any:
    """A node with room for one worker, and variables of its own environment. GPUs are fake."""
    return nodes.add_node(
        num_cpus=1,
        num_gpus=gpus,
        object_store_memory=100 * 2**20,
        env_vars=environment or None,
    )


def raylet_of(node: Any) -> int:
    """Process of a node's raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


def workers_of(node: Any) -> list[int]:
    """Processes of our workers on a node."""
    try:
        children = psutil.Process(raylet_of(node)).children()
    except psutil.NoSuchProcess:
        return []
    return [child.pid for child in children if _title(child).startswith("ray::Worker")]


def drain(nodes: RayNodes, node_id: str, seconds: float) -> None:
    """Give a node the notice that a cloud gives before it takes a spot instance away."""
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    deadline_ms = int((time.time() + seconds) * 1000)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = ray._raylet.GcsClient(address=nodes.address)
    accepted, why = client.drain_node(node_id, reason, "a test", deadline_ms)
    assert accepted, why


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
