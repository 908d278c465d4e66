"""Which latents are targets where a prompt has more than are wanted.

Rows are taken for the logits first, then for those latents that have most influence in the graph
of the rows so far, some at a time, as circuit-tracer does. What the others write is added to the
error of their position, so rows still add up to what they should: nothing is lost, some of it is
no longer told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from bathyscope.attribution.graphs.gradients import Rows
from bathyscope.attribution.graphs.influence import SMALLEST_SUM
from bathyscope.attribution.graphs.nodes import Latents, Nodes
from bathyscope.attribution.graphs.replacement import decoded
from bathyscope.attribution.graphs.truncate import SparseRows, covering

RowsOf = Callable[[Tensor], Iterator[Rows]]
"""Targets int64 [n], ascending -> their rows."""
_SHARE = 0.99


def most_influential(nodes: Nodes, rows_of: RowsOf, most: int, *, step: int) -> Tensor:
    """The numbers of at most `most` latents, int64 ascending; `step` are chosen at a time.

    Influence is p · (Â + Â² + …) over the rows so far, each reduced to its largest entries with
    0.99 of its mass, which only orders the latents.
    """
    total = len(nodes.latents)
    if total <= most:
        return torch.arange(total)
    found = _Partial(nodes)
    found.add(rows_of(nodes.num_sources + torch.arange(len(nodes.logits.token))))
    chosen = np.zeros(total, dtype=bool)
    while chosen.sum() < most:
        influence = found.influence()[:total]
        influence[chosen] = -1.0
        num = min(step, most - int(chosen.sum()))
        new = np.sort(np.argsort(-influence, kind="stable")[:num])
        chosen[new] = True
        if chosen.sum() < most:
            found.add(rows_of(torch.from_numpy(new)))
    return torch.from_numpy(np.flatnonzero(chosen))


def with_latents(nodes: Nodes, chosen: Tensor) -> Nodes:
    """The nodes with the chosen latents only; what the others write goes to their errors."""
    if len(chosen) == len(nodes.latents):
        return nodes
    left = torch.ones(len(nodes.latents), dtype=torch.bool)
    left[chosen] = False
    errors = {n: error.clone() for n, error in zip(nodes.written, nodes.errors, strict=True)}
    rest = nodes.latents.select(left)
    for number, part in enumerate(nodes.parts):
        mine = _of_part(rest, number)
        y_hat = decoded(part, mine.position, mine.latent, mine.value, nodes.num_positions)
        for block in part.writes:
            errors[block.hook_point] += y_hat[:, block.columns].to(errors[block.hook_point])
    latents = nodes.latents.select(chosen)
    return Nodes(nodes.parts, latents, nodes.written, tuple(errors.values()), nodes.logits)


def _of_part(latents: Latents, number: int) -> Latents:
    return latents.select(latents.part == number)


class _Partial:
    """Normalised rows so far, and the influence that they show."""

    def __init__(self, nodes: Nodes) -> None:
        self._num = nodes.num_sources + len(nodes.logits.token)
        self._weights = np.zeros(self._num)
        self._weights[nodes.num_sources :] = nodes.logits.probability.cpu().numpy()
        self._rows: list[sparse.coo_array] = []

    def add(self, batches: Iterator[Rows]) -> None:
        for rows in batches:
            row, column = (rows.values != 0).nonzero(as_tuple=True)
            entries = SparseRows(row, column, rows.values[row, column], len(rows.targets))
            sums = entries.sums().clamp_min(SMALLEST_SUM)
            kept = entries.chosen(covering(entries, _SHARE))
            row, column = kept.rows, kept.columns
            values = (kept.values.abs().double() / sums[row]).cpu().numpy()
            places = (rows.targets[row.cpu()].cpu().numpy(), column.cpu().numpy())
            self._rows.append(sparse.coo_array((values, places), shape=(self._num, self._num)))

    def influence(self) -> np.ndarray:
        """p · (Â + Â² + …) [nodes]: ends by itself, as the graph has no cycle."""
        matrix = sum(self._rows[1:], self._rows[0]).tocsr().T.tocsr()
        self._rows = [matrix.T.tocoo()]
        flow, total = self._weights, np.zeros(self._num)
        while flow.any():
            flow = matrix @ flow
            total += flow
        return total
