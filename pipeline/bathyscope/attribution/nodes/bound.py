"""Nodes of a batch of pairs: which there are, and the change of a tensor that stands for each.

For a node n at a place with the tensor x (clean) and x' (corrupted), Δ_n is what x changes by when
n alone takes its corrupted value. Exact patching puts Δ_n in; first-order methods need <g, Δ_n>.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bathyscope.attribution.nodes.metrics import wide
from bathyscope.attribution.nodes.places import Place
from bathyscope_kernels import sampled_dot


@dataclass(frozen=True)
class NodeTable:
    """Which nodes there are: int64 [nodes] each, ordered by pair."""

    pair: Tensor
    position: Tensor
    """-1 for a node that is all positions."""
    index: Tensor
    """Head, group of heads or latent; -1 where the node is a whole tensor."""

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.pair)


class Nodes(Protocol):
    """Nodes of one kind at one place."""

    @property
    def place(self) -> Place:
        """Where the tensor is."""
        ...

    @property
    def kind(self) -> str:
        """What a node is: `position`, `head`, `latent`, `error`…"""
        ...

    @property
    def table(self) -> NodeTable:
        """The nodes."""
        ...

    def dot(self, gradient: Tensor) -> Tensor:
        """<g, Δ_n> [nodes], for g of the shape of the place's tensor of all pairs."""
        ...

    def patched(self, x: Tensor, rows: Tensor, nodes: Tensor) -> Tensor:
        """x [rows, …] where row rows[i] takes the corrupted value of node nodes[i]."""
        ...


class DenseNodes:
    """Blocks of a tensor, each at one position or at all: streams, modules, heads, errors.

    `change` is Δ [pairs, positions, d] or [pairs, positions, heads, d_head]; `heads` cuts d into
    that many blocks. Positions outside `keep` are no nodes.
    """

    def __init__(
        self, place: Place, kind: str, change: Tensor, keep: Tensor, *, heads: int | None = None,
        each_position: bool,
    ) -> None:  # fmt: skip
        count = change.shape[2] if change.ndim == 4 else heads or 1
        keep = keep.to(change.device)
        self.place, self.kind = place, kind
        self.change = change.reshape(*keep.shape, count, -1) * keep[:, :, None, None]
        self.each_position = each_position
        self.indexed = change.ndim == 4 or heads is not None
        exists = keep if each_position else keep.any(1, keepdim=True)
        # The order of nonzero is by pair, position, head: that of `dot` as well.
        pair, position, head = exists[..., None].expand(*exists.shape, count).nonzero().T
        self._exists = exists
        none = torch.full_like(pair, -1)
        self.table = NodeTable(
            pair, position if each_position else none, head if self.indexed else none
        )

    def dot(self, gradient: Tensor) -> Tensor:
        """<g, Δ_n> [nodes]."""
        g = gradient.reshape(self.change.shape).to(self.change.device, self._dtype)
        return self.collected((g * self.change.to(self._dtype)).sum(-1))

    def collected(self, products: Tensor) -> Tensor:
        """Products [pairs, positions, heads] as scores of nodes, summed where a node is all."""
        if not self.each_position:
            products = products.sum(1, keepdim=True)
        return products[self._exists].flatten()

    def patched(self, x: Tensor, rows: Tensor, nodes: Tensor) -> Tensor:
        """x with Δ of node nodes[i] added in row rows[i]."""
        out = x.reshape(x.shape[0], *self.change.shape[1:]).clone()
        pair = self.table.pair[nodes]
        head = self.table.index[nodes].clamp_min(0)
        if self.each_position:
            position = self.table.position[nodes]
            change = self.change[pair, position, head].to(x.dtype)
            out.index_put_((rows, position, head), change, accumulate=True)
        else:
            span = torch.arange(x.shape[1], device=x.device)
            where = (rows[:, None], span[None], head[:, None])
            change = self.change[pair[:, None], span[None], head[:, None]].to(x.dtype)
            out.index_put_(where, change, accumulate=True)
        return out.view_as(x)

    @property
    def _dtype(self) -> torch.dtype:
        return wide(self.change)


class LatentNodes:
    """Latents of a dictionary, one per position: Δ_f = (z'_f - z_f) W_dec[f], of rank one.

    Lists [nodes] of pair, position, latent and z' - z; `W_dec` [latents, d]. The scores come from
    the kernel `sampled_dot`, so that no [nodes, d] exists.
    """

    kind = "latent"

    def __init__(self, place: Place, W_dec: Tensor, table: NodeTable, change: Tensor) -> None:
        self.place, self.table, self.change = place, table, change
        self._W_dec = W_dec.detach()

    def dot(self, gradient: Tensor) -> Tensor:
        """<g, Δ_n> [nodes]."""
        positions = gradient.shape[1]
        rows = self.table.pair * positions + self.table.position
        flat = gradient.detach().reshape(1, -1, gradient.shape[-1]).to(self._W_dec.device)
        flat = flat.to(self._W_dec.dtype) if self._W_dec.dtype == torch.float64 else flat
        return sampled_dot(flat, self._W_dec, rows, self.table.index, self.change)[0]

    def patched(self, x: Tensor, rows: Tensor, nodes: Tensor) -> Tensor:
        """x with Δ of node nodes[i] added in row rows[i]."""
        change = self.change[nodes, None] * self._W_dec[self.table.index[nodes]]
        where = (rows.to(x.device), self.table.position[nodes].to(x.device))
        return x.clone().index_put_(where, change.to(x), accumulate=True)
