"""The other holders of a dictionary's latents, where they are split over processes."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bathyscope_kernels import Ragged
from bathyscope_kernels.score_blocks import orderable


class Peers(Protocol):
    """What an activation function asks of all holders together."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set at any holder."""
        ...

    def total(self, counts: Tensor) -> Tensor:
        """The sum over all holders."""
        ...

    def largest(self, entries: Ragged, k: int, group_rows: int, held: int) -> Tensor:
        """Which entries are among the k * rows largest of their group, bool [nnz].

        A group is a run of `group_rows` rows, the last one may be shorter. Of equals the smaller
        row comes first, then the smaller latent. Each holder has `held` latents of this part, and
        with groups of one row at most k entries in each.
        """
        ...

    def largest_of_lists(self, values: Tensor, latents: Tensor, k: int, held: int) -> Tensor:
        """Which positive values [rows, n] of latents [n] are among the k largest of a row."""
        ...

    def take_part(self, rows: int, dtype: torch.dtype, k: int, held: int) -> None:
        """Join the others in `largest_of_lists` without a candidate."""
        ...

    def least(self, level: float) -> float:
        """The smallest at any holder."""
        ...


class Alone:
    """One process holds all latents."""

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def total(self, counts: Tensor) -> Tensor:
        """The counts."""
        return counts

    def largest(self, entries: Ragged, k: int, group_rows: int, held: int) -> Tensor:
        """As in `Peers`."""
        keep = torch.ones(entries.values.shape, dtype=torch.bool, device=entries.values.device)
        for rows, start, stop in groups_of(entries, group_rows):
            keep[start:stop] = largest_of(orderable(entries.values[start:stop].detach()), k * rows)
        return keep

    def largest_of_lists(self, values: Tensor, latents: Tensor, k: int, held: int) -> Tensor:
        """All positive ones: the lists have been cut to the k largest."""
        return values > 0

    def take_part(self, rows: int, dtype: torch.dtype, k: int, held: int) -> None:
        """There are no others."""

    def least(self, level: float) -> float:
        """The level."""
        return level


def groups_of(entries: Ragged, group_rows: int) -> list[tuple[int, int, int]]:
    """Number of rows, first entry and one past the last entry of each run of `group_rows` rows."""
    ends = [*range(0, entries.num_rows, group_rows), entries.num_rows]
    places = entries.offsets[torch.tensor(ends, device=entries.offsets.device)].tolist()
    return [
        (ends[i + 1] - ends[i], places[i], places[i + 1])
        for i in range(len(ends) - 1)
        if ends[i + 1] > ends[i]
    ]


def largest_of(order: Tensor, wanted: int) -> Tensor:
    """The `wanted` largest of integers [n], of equals the first: bool [n]."""
    if order.numel() <= wanted:
        return torch.ones_like(order, dtype=torch.bool)
    smallest = torch.topk(order, wanted, sorted=False).values.amin()
    keep, tied = order > smallest, order == smallest
    return keep | tied & (tied.cumsum(0) <= wanted - keep.sum())
