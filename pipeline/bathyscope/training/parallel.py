"""A training step over several processes: rows split over some, latents over others.

Each process has a share of the latents (Gao et al. 2024, arXiv:2406.04093, section D.2) and of the
batch's rows. Per step:

- the choice among all latents is exact (`latent_peers`);
- what the shares decode to is added up once, rows * d_out numbers;
- gradients of split weights never leave the ranks that share them, and are added up over rows:
  only the rows of latents that had an entry somewhere;
- b_dec has the same gradient everywhere, but for its share through the encoder, which is a sum
  over latents; the spread of the batch, the clip norm, the dead latents and the error that AuxK
  explains are those of all.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.dictionaries.peers import Alone, Peers
from bathyscope.training.collectives import Collectives
from bathyscope.training.grid import Grid
from bathyscope.training.latent_peers import LatentPeers


class ParallelMesh:
    """The `training.mesh.Mesh` of a process group that is already initialised."""

    def __init__(self, grid: Grid, *, device: torch.device | str = "cpu", seconds: float) -> None:
        assert dist.get_world_size() == grid.world, (dist.get_world_size(), grid)
        self.grid, self.rank = grid, dist.get_rank()
        self.collectives = Collectives(torch.device(device))
        timeout = timedelta(seconds=seconds)
        # Every process makes every group, in one order.
        of_rows = {tuple(grid.ranks_of_rows(rank)): None for rank in range(grid.world)}
        of_latents = {tuple(grid.ranks_of_latents(rank)): None for rank in range(grid.world)}
        made = {
            ranks: dist.new_group(list(ranks), timeout=timeout) for ranks in [*of_rows, *of_latents]
        }
        self._rows_group = made[tuple(grid.ranks_of_latents(self.rank))]
        self._latents_group = made[tuple(grid.ranks_of_rows(self.rank))]
        place = grid.latent_place(self.rank)
        self.peers: Peers = Alone()
        if grid.latents > 1:
            self.peers = LatentPeers(self.collectives, self._latents_group, place)

    def sum_rows(self, tensor: Tensor) -> Tensor:
        """The sum over processes with other rows."""
        if self.grid.data == 1:
            return tensor
        return self._sum(tensor.clone(), self._rows_group, "sums over rows")

    def sum_latents(self, tensor: Tensor) -> Tensor:
        """The sum over processes with other latents."""
        if self.grid.latents == 1:
            return tensor
        return self._sum(tensor.clone(), self._latents_group, "sums over latents")

    def join(self, partial: Tensor) -> Tensor:
        """The sum over processes with other latents, gradients going back as they are."""
        if self.grid.latents == 1:
            return partial
        return _Join.apply(partial, self)

    def first_latents(self, held: Tensor) -> Tensor:
        """The number of the first latent of each part that this process holds."""
        return held * self.grid.latent_place(self.rank)

    def first_row(self, held: int) -> int:
        """The number of the first row of the batch that this process has."""
        return held * self.grid.data_place(self.rank)

    def sum_gradients(self, dictionary: AnyDictionary) -> None:
        """Add up the gradients of processes with other rows."""
        if self.grid.data == 1:
            return
        for _, parameter in sorted(dictionary.named_parameters()):
            grad = parameter.grad
            if grad is not None and grad.is_sparse:
                parameter.grad = self._sum_of_rows(grad.coalesce())
            else:
                whole = torch.zeros_like(parameter) if grad is None else grad
                parameter.grad = self._sum(whole, self._rows_group, "gradients")

    def _sum_of_rows(self, grad: Tensor) -> Tensor:
        """The sum of row-sparse gradients, whose rows are those of any of them."""
        present = torch.zeros(grad.shape[0], dtype=torch.int32, device=grad.device)
        present[grad.indices()[0]] = 1
        present = self.collectives.reduce(
            present, self._rows_group, dist.ReduceOp.MAX, "rows of gradients"
        )
        rows = present.nonzero().squeeze(1)
        places = torch.searchsorted(rows, grad.indices()[0])
        whole = grad.values().new_zeros(len(rows), grad.shape[1])
        whole.index_copy_(0, places, grad.values())
        whole = self._sum(whole, self._rows_group, "gradients")
        return torch.sparse_coo_tensor(
            rows[None], whole, grad.shape, is_coalesced=True, check_invariants=False
        )

    def _sum(self, tensor: Tensor, group: dist.ProcessGroup, what: str) -> Tensor:
        return self.collectives.reduce(tensor, group, dist.ReduceOp.SUM, what)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, mesh: ParallelMesh) -> Tensor:
        return mesh._sum(partial.clone(), mesh._latents_group, "reconstructions")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Every process has the whole loss, and the sum's derivative to its part is 1.
        return grad, None


def step_bytes(grid: Grid, *, rows: int, d_out: int, k: int, prefixes: int = 1) -> dict[str, int]:
    """Bytes that a process gives into the two large exchanges of a TopK step over float32 rows.

    `rows` are those of this process. Keys are 8 bytes for each of k places of a row; what is
    decoded is 4 bytes for each column, once per prefix. Without AuxK.
    """
    if grid.latents == 1:
        return {}
    return {"keys": 8 * rows * k, "reconstructions": 4 * rows * d_out * prefixes}


def gather_records(record: Any) -> list[Any]:
    """The records of all ranks at rank 0, in their order; nothing elsewhere."""
    first = dist.get_rank() == 0
    records: list[Any] = [None] * dist.get_world_size() if first else []
    dist.gather_object(record, records if first else None, dst=0)
    return records
