"""Where a process stands among those that train together."""

from __future__ import annotations

from dataclasses import dataclass, field

from bathyscope.config import Config
from bathyscope.models.precision import default_device_kind
from bathyscope.stages.checkpoints import Seat
from bathyscope.training.grid import grid_of
from bathyscope.training.mesh import Mesh, Single


@dataclass(frozen=True)
class Place:
    """Where this process stands among those that train together."""

    seat: Seat = field(default_factory=Seat)
    mesh: Mesh = field(default_factory=Single)


def place_of(config: Config, part: tuple[int, int]) -> Place:
    """The place of process `part[0]` of `part[1]` that have met; alone where there is one.

    Raises `ConfigError` where they do not divide into sets that hold all latents.
    """
    rank, world = part
    if world == 1:
        return Place()
    # Processes of several are a matter of torch.distributed, which not every platform has.
    from bathyscope.training.parallel import ParallelMesh, gather_records

    grid = grid_of(world, config.train.latent_parallel)
    mesh = ParallelMesh(grid, device=default_device_kind(), seconds=config.train.timeout_s)
    return Place(Seat(grid, rank, gather_records, config.train.timeout_s), mesh)
