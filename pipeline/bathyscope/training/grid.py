"""How processes share a training: some split the rows of a batch, some split the latents.

Ranks that differ only in their latents are neighbours, since they exchange the most.
"""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.errors import ConfigError


@dataclass(frozen=True)
class Grid:
    """`data` x `latents` processes; rank = data place * latents + latent place."""

    data: int = 1
    """Processes that have other rows of the batch."""
    latents: int = 1
    """Processes that hold other latents."""

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.data * self.latents

    def data_place(self, rank: int) -> int:
        """Which rows a rank has."""
        return rank // self.latents

    def latent_place(self, rank: int) -> int:
        """Which latents a rank holds."""
        return rank % self.latents

    def ranks_of_rows(self, rank: int) -> list[int]:
        """Ranks with the same rows, which hold all latents together."""
        first = self.data_place(rank) * self.latents
        return list(range(first, first + self.latents))

    def ranks_of_latents(self, rank: int) -> list[int]:
        """Ranks with the same latents, which have all rows together."""
        return list(range(self.latent_place(rank), self.world, self.latents))


def grid_of(world: int, latents: int) -> Grid:
    """The grid of so many processes, of which `latents` hold the latents together.

    Raises `ConfigError` where they cannot be divided: a world may grow and shrink by whole sets of
    latents only.
    """
    if latents < 1 or world < 1 or world % latents:
        raise ConfigError(
            f"{world} processes cannot be divided into sets of {latents} that hold all latents "
            "together. Take a multiple of train.latent_parallel, or another train.latent_parallel."
        )
    return Grid(world // latents, latents)


def share_of_latents(num_latents: int, grid: Grid, rank: int) -> range:
    """The latents of a part that a rank holds. Raises `ConfigError` where they do not divide."""
    if num_latents % grid.latents:
        raise ConfigError(
            f"{num_latents} latents cannot be split over {grid.latents} processes evenly. Choose "
            "dictionary.num_latents as a multiple of train.latent_parallel."
        )
    each = num_latents // grid.latents
    place = grid.latent_place(rank)
    return range(place * each, (place + 1) * each)


def check_batch(batch_rows: int, group_rows: int | None, grid: Grid) -> None:
    """Raise `ConfigError` unless a batch divides into whole rows, and groups, for each process."""
    if batch_rows % grid.data:
        raise ConfigError(
            f"A batch of {batch_rows} rows cannot be split over {grid.data} processes evenly. "
            "Choose train.batch_rows as a multiple of them."
        )
    each = batch_rows // grid.data
    if group_rows is not None and grid.data > 1 and each % group_rows:
        raise ConfigError(
            f"Each of {grid.data} processes has {each} rows of a batch, which are not whole groups "
            f"of {group_rows}. Choose dictionary.group_rows so that it divides {each}: what a "
            "BatchTopK dictionary selects must not depend on the number of processes."
        )
