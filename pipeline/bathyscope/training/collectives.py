"""Collectives of a training, counted and named: who waits for what is said when it fails."""

from __future__ import annotations

from collections import Counter

import torch
import torch.distributed as dist
from torch import Tensor

from bathyscope.errors import JobError


class Collectives:
    """All-reduce and all-gather among the processes of a group.

    `bytes_sent` counts what this process gives into each kind of exchange. Raises `JobError` when
    another process does not answer in time or is gone, naming the exchange and the rank here.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes_sent: Counter[str] = Counter()

    def reduce(
        self,
        tensor: Tensor,
        group: dist.ProcessGroup,
        operation: dist.ReduceOp.RedOpType,
        what: str,
    ) -> Tensor:
        """Reduce a tensor of this process's own, in place, and return it."""
        tensor = tensor.contiguous()
        self._count(tensor, what)
        try:
            dist.all_reduce(tensor, op=operation, group=group)
        except RuntimeError as error:
            raise self._lost(what, group, error) from error
        return tensor

    def gather(
        self, tensor: Tensor, group: dist.ProcessGroup, size: int, what: str
    ) -> list[Tensor]:
        """The tensors of all processes, in the order of their ranks; all have one shape."""
        tensor = tensor.contiguous()
        self._count(tensor, what)
        parts = [torch.empty_like(tensor) for _ in range(size)]
        try:
            dist.all_gather(parts, tensor, group=group)
        except RuntimeError as error:
            raise self._lost(what, group, error) from error
        return parts

    def _count(self, tensor: Tensor, what: str) -> None:
        self.bytes_sent[what] += tensor.numel() * tensor.element_size()

    def _lost(self, what: str, group: dist.ProcessGroup, error: RuntimeError) -> JobError:
        ranks = dist.get_process_group_ranks(group)
        return JobError(
            f"Rank {dist.get_rank()} waited in vain for the others of {ranks} to exchange {what}: "
            f"{str(error).splitlines()[0]}. One of them hangs or is gone: look at its log. The "
            "training goes on from its last checkpoint when it is started again."
        )
