"""Rules of where units are run."""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.config_rules.choices import one_of
from bathyscope.errors import ConfigError


def check(config: Config) -> None:
    """Raise `ConfigError` for a cluster, replica or hardware that cannot be."""
    one_of("cluster.kind", config.cluster.kind, ("inline", "local", "address"))
    one_of("cluster.replica", config.cluster.replica, ("accelerate", "pipeline"))
    _hardware(config)
    if not 0 <= config.cluster.audit <= 1:
        raise ConfigError(
            f"cluster.audit is {config.cluster.audit}. A share from 0 (none) to 1 (every unit is "
            "done twice) is wanted."
        )
    if config.cluster.min_workers > config.cluster.workers:
        raise ConfigError(
            f"cluster.min_workers is {config.cluster.min_workers}, but cluster.workers is "
            f"{config.cluster.workers}. Ask for more workers, or for fewer at least."
        )


def _hardware(config: Config) -> None:
    stated = config.hardware
    if stated.gpus_per_node and not stated.gpu_bytes:
        raise ConfigError(
            f"hardware.gpus_per_node is {stated.gpus_per_node}, but hardware.gpu_bytes is not set. "
            "Give the memory of a GPU in bytes, or leave both to this machine."
        )
    if stated.gpu_bytes and stated.gpu_bytes <= stated.gpu_reserved_bytes:
        raise ConfigError(
            f"hardware.gpu_bytes is {stated.gpu_bytes:g}, and hardware.gpu_reserved_bytes, which "
            f"is kept free of it, is {stated.gpu_reserved_bytes:g}. Give bytes, such as 80e9."
        )


def check_pipeline(config: Config, *, planned: bool) -> None:
    """Raise `ConfigError` for a replica over several processes that cannot be."""
    cluster = config.cluster
    if cluster.replica != "pipeline":
        return
    if config.model.offload_folder is not None or "cpu" in config.model.max_memory:
        raise ConfigError(
            "cluster.replica is pipeline, and weights may go to the CPU or to a folder. Several "
            "batches are under way in a pipeline, and moving weights under them is not safe: leave "
            "model.offload_folder and model.max_memory.cpu out, or take cluster.replica=accelerate."
        )
    if planned:
        return
    if cluster.kind == "inline":
        raise ConfigError(
            "cluster.replica is pipeline, which takes several processes, and cluster.kind is "
            "inline. Take cluster=local or cluster=address, or cluster.replica=accelerate."
        )
    if not cluster.stages and not cluster.gpus_per_worker:
        raise ConfigError(
            "cluster.replica is pipeline, but neither cluster.gpus_per_worker nor cluster.stages "
            "is set. Give the GPUs of a replica, or on CPUs the number of its processes."
        )
    if cluster.stages and cluster.gpus_per_worker % cluster.stages:
        raise ConfigError(
            f"cluster.gpus_per_worker is {cluster.gpus_per_worker}, which cannot be spread over "
            f"cluster.stages, {cluster.stages}. Choose a multiple of it."
        )
