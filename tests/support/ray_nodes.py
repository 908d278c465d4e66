"""Several Ray nodes on one machine: real raylets, with room for one worker each."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.cluster_utils import Cluster as RayNodes


def start_head() -> RayNodes:
    """A head node on which no worker fits."""
    return RayNodes(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )


def add_node(nodes: RayNodes, **environment: str) -> Any:
    """A node with room for one worker, and variables of its own environment."""
    return nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20, env_vars=environment or None)


def drain(nodes: RayNodes, node_id: str, seconds: float) -> None:
    """Give a node the notice that a cloud gives before it takes a spot instance away."""
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    deadline_ms = int((time.time() + seconds) * 1000)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = ray._raylet.GcsClient(address=nodes.address)
    accepted, why = client.drain_node(node_id, reason, "a test", deadline_ms)
    assert accepted, why
