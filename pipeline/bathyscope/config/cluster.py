"""Where units are run, and on what."""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.config.option import not_negative, option, positive


@dataclass
class ClusterConfig:
    """Where units are run."""

    kind: str = option("local", "inline (this process), local (Ray here) or address (a cluster)")
    address: str | None = option(None, "address of a running Ray cluster (kind address)")
    workers: int = positive(1, "worker processes wanted; the first one that is ready begins")
    min_workers: int = positive(1, "the run stops when failures leave fewer worker slots")
    threads: int = not_negative(0, "CPU threads of a worker; 0 takes all cores, split over workers")
    gpus_per_worker: int = not_negative(0, "GPUs of a worker; a plan chooses where it is 0")
    replica: str = option(
        "accelerate", "accelerate (one process, on one node) or pipeline (several, also over nodes)"
    )
    stages: int = not_negative(
        0, "processes of a pipeline, over which its GPUs are spread; 0: one for each GPU"
    )
    object_store_bytes: int = option(100 * 2**20, "Ray's shared memory (kind local)")
    max_failures: int = not_negative(
        3, "failures of one unit, and deaths in a row in one worker slot, that are survived"
    )
    straggler_factor: float = positive(
        4.0, "a unit that takes so many times the median is given to another worker as well"
    )
    straggler_least_s: float = positive(60.0, "but not before so many seconds")
    start_s: float = positive(
        1800.0, "seconds in which a worker must have loaded its model, or it is replaced"
    )
    drain_s: float = not_negative(
        90.0, "seconds that units under way are given after SIGTERM or SIGUSR1"
    )
    audit: float = option(
        0.0, "share of the units that another worker does again to compare, such as 0.001"
    )


@dataclass
class HardwareConfig:
    """What `bathyscope plan` counts with."""

    name: str = option("this machine", "what it is called")
    nodes: int = positive(1, "number of nodes")
    gpus_per_node: int | None = not_negative(None, "GPUs of a node; null asks this machine")
    gpu_bytes: float | None = not_negative(None, "memory of a GPU; null asks this machine")
    gpu_reserved_bytes: float = not_negative(
        4e9, "memory of a GPU that is kept for CUDA, workspaces and fragments"
    )
    gpu_flops: float | None = not_negative(
        None, "operations per second that a GPU reaches in a forward, which is half its peak or so"
    )
    write_bytes_per_s: float | None = not_negative(None, "bytes per second that a node writes")
