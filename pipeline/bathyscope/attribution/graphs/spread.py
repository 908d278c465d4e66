"""Dropped entries as numbers per target, given to every source where they can have been.

A target t gives each candidate v[t, kind] times the candidate's propensity; candidates are sources
of that kind that are not among its kept entries and, for latents, not after its last dropped one.
With v from the target's dropped mass this is close to the whole graph: row sums by kind are exact,
and propensities come from column sums. With the largest dropped entry and no propensities it is
more than any whole graph has. No candidate is ever listed.
"""

from __future__ import annotations

import numpy as np

from bathyscope.attribution.graphs.blocks import Block, row_blocks
from bathyscope.attribution.graphs.graph import (
    Bools,
    Dropped,
    Floats,
    Graph,
    Ints,
    target_groups,
)


class Spread:
    """a[s] · Σ_t v[t, kind of s] over the targets that have s as a candidate, for every source s.

    Targets are added run by run, from the logits down; a sum is asked for when all targets above
    a node are in.
    """

    def __init__(
        self,
        graph: Graph,
        dropped: Dropped,
        *,
        propensity: Floats | None = None,
        keep: Bools | None = None,
        num_groups: int = 1,
    ) -> None:
        n, num_latents = graph.num_nodes, graph.num_latents
        self._graph, self._dropped = graph, dropped
        self._every = np.ones((n, num_groups)) if propensity is None else propensity
        self._groups = target_groups(num_latents, n, self._every.shape[1])
        self._kept = self._every if keep is None else self._every * keep[:, None]
        self._kinds = np.repeat(np.arange(3), [num_latents, graph.num_errors, graph.num_tokens])
        self._values = np.zeros((n, 3))
        self._totals = np.zeros((3, self._every.shape[1]))
        self._up_to = np.zeros(self._every.shape)
        self._listed = np.zeros(self._every.shape[::-1])

    def candidates(self, block: Block) -> tuple[Floats, Floats]:
        """Propensities of all candidates of each target by kind [b, 3]; of those kept alone."""
        return self._over(block, self._every), self._over(block, self._kept)

    def _over(self, block: Block, weights: Floats) -> Floats:
        latents, errors, tokens = self._graph.latents, self._graph.errors, self._graph.tokens
        groups, last = self._groups[block.rows], self._dropped.last_latent[block.rows]
        found = np.empty((len(block.rows), 3))
        found[:, 1] = weights[errors].sum(axis=0)[groups]
        found[:, 2] = weights[tokens].sum(axis=0)[groups]
        before = np.zeros(self._graph.num_latents + 1)
        for group in np.unique(groups):
            np.cumsum(weights[latents, group], out=before[1:])
            found[groups == group, 0] = before[last[groups == group] + 1]
        most = found.max(initial=1.0)
        kinds, listed = self._kinds[block.indices], weights[block.indices, block.spread(groups)]
        listed[(kinds == 0) & (block.indices > block.spread(last))] = 0.0
        for kind in range(3):
            found[:, kind] -= block.sums(listed * (kinds == kind))
        # Sums of other orders leave some last bits where nothing is left.
        return np.where(found > 1e-11 * most, found, 0.0)

    def add(self, block: Block, values: Floats) -> None:
        """Add the targets of a block with their v [b, 3], and take it away at listed entries."""
        rows, groups = block.rows, self._groups[block.rows]
        last = self._dropped.last_latent[rows]
        has = last >= 0
        np.add.at(self._up_to, (last[has], groups[has]), values[has, 0])
        for kind in range(3):
            np.add.at(self._totals[kind], groups, values[:, kind])
        self._values[rows] = values
        listed = self._values[block.spread(rows), self._kinds[block.indices]]
        is_latent = block.indices < self._graph.num_latents
        listed[is_latent & (block.indices > block.spread(last))] = 0.0
        # A block has few groups, and one as a rule.
        for group in np.unique(groups):
            some = block.spread(groups == group)
            self._listed[group] += np.bincount(
                block.indices[some], weights=listed[some], minlength=self._graph.num_nodes
            )

    def at(self, nodes: Ints, *, rounding: float = 0.0) -> Floats:
        """The sum at nodes of one run, or at errors and tokens; `rounding` is added, relative."""
        return self.by_group(nodes, rounding=rounding).sum(axis=1)

    def by_group(self, nodes: Ints, *, rounding: float = 0.0) -> Floats:
        """The sum over the targets of each group [nodes, groups]."""
        if not len(nodes) or nodes[0] >= self._graph.first_logit:
            return np.zeros((len(nodes), self._every.shape[1]))
        if nodes[0] < self._graph.num_latents:
            above = self._up_to[nodes[-1] + 1 :].sum(axis=0)
            total = above + np.cumsum(self._up_to[nodes[0] : nodes[-1] + 1][::-1], axis=0)[::-1]
        else:
            total = self._totals[self._kinds[nodes]]
        left = np.maximum(total * (1 + rounding) - self._listed[:, nodes].T, 0.0)
        found: Floats = left * self._kept[nodes]
        return found


def propensities(graph: Graph, dropped: Dropped) -> Floats:
    """Propensities [n, groups] with which spread mass has about the column sums that were dropped.

    They are the column sums over those of mass that is spread evenly: one step of iterative
    proportional fitting.
    """
    spread = Spread(graph, dropped, num_groups=dropped.column_shares.shape[1])
    targets = np.flatnonzero(dropped.counts)
    for block in row_blocks(graph, targets):
        every, _ = spread.candidates(block)
        mass = dropped.mass[block.rows] / dropped.row_sums[block.rows, None]
        spread.add(block, mass / np.maximum(every, 1))
    evenly = np.zeros(dropped.column_shares.shape)
    for kind in (graph.latents, graph.errors, graph.tokens):
        evenly[kind] = spread.by_group(np.arange(kind.start, kind.stop))
    found: Floats = np.zeros(evenly.shape)
    return np.divide(dropped.column_shares, evenly, out=found, where=evenly > 0)
