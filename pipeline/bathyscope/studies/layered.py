"""Graphs of latents of several layers, each edge from an earlier layer to a later one.

A node is a latent of a layer, numbered through. Each target keeps its strongest sources, with
weights that sum to 1, so that layers of large values do not outweigh the others. Null graphs trade
sources between targets of one layer, among sources of one layer: the edges of each node to each
other layer are kept exactly, and so is how each target's weight is spread over layers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, issparse

from bathyscope.studies.graph_modularity import Graph, graph_of
from bathyscope.studies.rewiring import traded
from bathyscope.studies.sparse_rows import Floats, Integers, among_largest


class Layered(NamedTuple):
    """Edges by target, in no order."""

    layers: Integers
    """Of each node [nodes]."""
    targets: Integers
    """Node of the later layer [edges]."""
    sources: Integers
    """Node of an earlier layer [edges]."""
    weights: Floats
    """Above 0 [edges]; those of each target sum to 1."""

    @property
    def graph(self) -> Graph:
        """The same without directions."""
        return graph_of(len(self.layers), self.sources, self.targets, self.weights)


def strongest_sources(
    layers: Integers, targets: Integers, sources: Integers, strengths: Floats, most: int
) -> Layered:
    """Return the `most` strongest sources of each target, of strengths [pairs] above 0.

    Raises `ValueError` where a source is not of an earlier layer than its target.
    """
    if (layers[sources] >= layers[targets]).any():
        raise ValueError("a source is not of an earlier layer than its target")
    above = np.flatnonzero(strengths > 0)
    kept = above[among_largest(targets[above], strengths[above], most)]
    targets, sources, strengths = targets[kept], sources[kept], strengths[kept]
    totals = np.bincount(targets, weights=strengths, minlength=len(layers))
    return Layered(layers, targets, sources, strengths / totals[targets])


def traded_sources(edges: Layered, *, seed: int | np.random.Generator, rounds: int = 20) -> Layered:
    """Return edges with sources dealt out again within each two layers."""
    if not len(edges.targets):
        return edges
    num_layers = int(edges.layers.max()) + 1
    # A row for each target and layer of sources; its slots hold the sources there.
    rows, row = np.unique(
        edges.targets * num_layers + edges.layers[edges.sources], return_inverse=True
    )
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(len(rows)))
    slot = np.empty(len(row), dtype=np.int64)
    slot[order] = np.arange(len(row)) - np.repeat(starts, np.diff(starts, append=len(row)))
    latents = np.full((len(rows), int(slot.max()) + 1), -1, dtype=np.int64)
    latents[row, slot] = edges.sources
    target, layer = np.divmod(rows, num_layers)
    groups = np.unique(edges.layers[target] * num_layers + layer, return_inverse=True)[1]
    found = traded(latents, groups, seed=seed, rounds=rounds)
    return edges._replace(sources=found[row, slot])


def coactivation(
    of_targets: csr_array, of_sources: csr_array, targets: Integers, sources: Integers
) -> Floats:
    """Return Σ_rows a_t a_s of pairs of latents [pairs], from activations [rows, latents]."""
    if not len(targets):
        return np.zeros(0)
    products = csr_array(of_targets.T @ of_sources)
    # SciPy wants places that it may write to, which views of tensors are not.
    found = products[np.array(targets), np.array(sources)]
    return np.asarray(found.todense() if issparse(found) else found).ravel()
