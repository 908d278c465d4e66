"""The other holders of a dictionary's latents, where they are split over processes."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bathyscope_kernels.score_blocks import orderable


class Peers(Protocol):
    """What an activation function asks of all holders together."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set at any holder."""
        ...

    def largest(self, pre: Tensor, indices: Tensor, used: Tensor, k: int, group: int) -> Tensor:
        """Which entries are among the k * group largest of each run of `group` rows.

        Lists are [rows, width]; the result is bool like them. Of equals, the smaller row comes
        first, then the smaller latent.
        """
        ...


class Alone:
    """One process holds all latents."""

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def largest(self, pre: Tensor, indices: Tensor, used: Tensor, k: int, group: int) -> Tensor:
        """As in `Peers`. A row's list is ordered, so its first k entries are the largest."""
        if group == 1:
            return used & (torch.arange(used.shape[1], device=used.device) < k)
        keep = torch.zeros_like(used)
        for start in range(0, len(pre), group):
            rows = slice(start, min(start + group, len(pre)))
            keep[rows] = _largest(pre[rows], used[rows], k * (rows.stop - rows.start))
        return keep


def _largest(pre: Tensor, used: Tensor, wanted: int) -> Tensor:
    """The `wanted` largest entries of lists [rows, width]."""
    if int(used.sum()) <= wanted:
        return used
    order = orderable(pre).masked_fill_(~used, torch.iinfo(torch.int32).min).reshape(-1)
    smallest = torch.topk(order, wanted, sorted=False).values.amin()
    keep, tied = order > smallest, order == smallest
    # Places in the lists go by row, and equals of a row by latent.
    keep |= tied & (tied.cumsum(0) <= wanted - keep.sum())
    return keep.view_as(used)
