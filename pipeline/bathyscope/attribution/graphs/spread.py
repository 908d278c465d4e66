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
from bathyscope.attribution.graphs.graph import Bools, Dropped, Floats, Graph, Ints


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
    ) -> None:
        self._graph, self._dropped = graph, dropped
        self._values = np.zeros((graph.num_nodes, 3))
        self._up_to = np.zeros(graph.num_nodes)
        self._listed = np.zeros(graph.num_nodes)
        self._every = np.ones(graph.num_nodes) if propensity is None else propensity
        self._kept = self._every if keep is None else self._every * keep
        sizes = [graph.num_latents, graph.num_errors, graph.num_tokens]
        self._kinds = np.repeat(np.arange(3), sizes)

    def candidates(self, block: Block) -> tuple[Floats, Floats]:
        """Propensities of all candidates of each target by kind [b, 3]; of those kept alone."""
        return self._over(block, self._every), self._over(block, self._kept)

    def _over(self, block: Block, weights: Floats) -> Floats:
        last = self._dropped.last_latent[block.rows]
        latents, errors, tokens = self._graph.latents, self._graph.errors, self._graph.tokens
        before = np.concatenate([[0.0], np.cumsum(weights[latents])])
        found = np.empty((len(block.rows), 3))
        found[:, 0] = before[last + 1]
        found[:, 1:] = weights[errors].sum(), weights[tokens].sum()
        kinds, listed = self._kinds[block.indices], weights[block.indices]
        listed[(kinds == 0) & (block.indices > block.spread(last))] = 0.0
        for kind in range(3):
            found[:, kind] -= block.sums(listed * (kinds == kind))
        # Sums of other orders leave some last bits where nothing is left.
        return np.where(found > 1e-11 * max(before[-1], 1.0), found, 0.0)

    def add(self, block: Block, values: Floats) -> None:
        """Add the targets of a block with their v [b, 3], and take it away at listed entries."""
        rows = block.rows
        self._values[rows] = values
        last = self._dropped.last_latent[rows]
        has = last >= 0
        np.add.at(self._up_to, last[has], values[has, 0])
        listed = self._values[block.spread(rows), self._kinds[block.indices]]
        is_latent = block.indices < self._graph.num_latents
        listed[is_latent & (block.indices > block.spread(last))] = 0.0
        self._listed += np.bincount(block.indices, weights=listed, minlength=self._graph.num_nodes)

    def at(self, nodes: Ints, *, rounding: float = 0.0) -> Floats:
        """The sum at nodes of one run, or at errors and tokens; `rounding` is added, relative."""
        if not len(nodes) or nodes[0] >= self._graph.first_logit:
            return np.zeros(len(nodes))
        if nodes[0] < self._graph.num_latents:
            total = np.cumsum(self._up_to[nodes[0] :][::-1])[::-1][: len(nodes)]
        else:
            total = self._values.sum(axis=0)[self._kinds[nodes]]
        return np.maximum(total * (1 + rounding) - self._listed[nodes], 0.0) * self._kept[nodes]


def propensities(graph: Graph, dropped: Dropped, column_shares: Floats) -> Floats:
    """Propensities [n] with which spread mass has these sums Σ_t |D[t, s]| / row sum [n].

    They are the column sums over those of mass that is spread evenly: one step of iterative
    proportional fitting. Half as many edges are then on the wrong side of the threshold.
    """
    spread = Spread(graph, dropped)
    targets = np.flatnonzero(dropped.counts)
    for block in row_blocks(graph, targets):
        every, _ = spread.candidates(block)
        mass = dropped.mass[block.rows] / dropped.row_sums[block.rows, None]
        spread.add(block, mass / np.maximum(every, 1))
    ends = np.arange(graph.num_latents, graph.first_logit)
    evenly = np.zeros(graph.num_nodes)
    evenly[graph.latents] = spread.at(np.arange(graph.num_latents))
    evenly[ends] = spread.at(ends)
    return np.divide(column_shares, evenly, out=np.zeros(graph.num_nodes), where=evenly > 0)
