"""Asks Ray for the processes of a replica, and stops them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from bathyscope.config import ClusterConfig
from bathyscope.jobs.cluster_ray import resources_of_process
from bathyscope.jobs.cluster_worker import Worker
from bathyscope.jobs.world import processes_of_replica


def start_workers(settings: ClusterConfig, refused: Collection[str]) -> tuple[list[Any], Any]:
    """The actors of one replica, and the placement group of several; on no node that is refused.

    Ray starts them when there is room, which may be much later; several together or none.
    """
    need = resources_of_process(settings)
    elsewhere = {"ray.io/node-id": f"!in({','.join(sorted(refused))})"} if refused else None
    options: dict[str, Any] = {
        "num_cpus": need["CPU"],
        "num_gpus": need.get("GPU", 0),
        "max_restarts": 0,
        # Two threads run units, the others answer questions.
        "max_concurrency": 4,
    }
    count = processes_of_replica(settings)
    if count == 1:
        if elsewhere is not None:
            options["label_selector"] = elsewhere
        return [_start(settings, options)], None
    group = placement_group(
        [dict(need)] * count,
        # On as few nodes as there is room for: hidden states then seldom cross the network.
        strategy="PACK",
        bundle_label_selector=[elsewhere] * count if elsewhere is not None else None,
    )
    strategies = [PlacementGroupSchedulingStrategy(group, rank) for rank in range(count)]
    return [_start(settings, {**options, "scheduling_strategy": s}) for s in strategies], group


def stop_workers(actors: Sequence[Any], group: Any) -> None:
    """Stop the processes of a replica, and give their room back."""
    for actor in actors:
        ray.kill(actor)
    if group is not None:
        remove_placement_group(group)


def _start(settings: ClusterConfig, options: dict[str, Any]) -> Any:
    return (
        ray.remote(Worker)
        .options(**options)
        .remote(settings.threads, settings.workers * processes_of_replica(settings))
    )
