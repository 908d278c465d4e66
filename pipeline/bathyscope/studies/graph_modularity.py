"""Modularity of a partition of a weighted graph, after Newman and Girvan 2004, and its size.

With W the sum of all weights, W_c that of the edges inside community c, and S_c the sum of the
strengths of its nodes,

    Q = Σ_c [ W_c / W - (S_c / 2W)² ]

A random graph has partitions of high Q too (Guimerà et al. 2004): Q is read against the Q that the
same method finds in graphs of a null model.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bathyscope.metrics.finite import require_finite
from bathyscope.studies.sparse_rows import Floats, Integers


class Graph(NamedTuple):
    """An undirected graph, each edge once."""

    num_nodes: int
    left: Integers
    """Lower end of each edge [edges]."""
    right: Integers
    """Higher end [edges]."""
    weights: Floats
    """Above 0 [edges]."""

    @property
    def num_edges(self) -> int:
        """Edges."""
        return len(self.left)

    @property
    def degrees(self) -> Integers:
        """Edges of each node [nodes]."""
        ends = np.concatenate([self.left, self.right])
        return np.bincount(ends, minlength=self.num_nodes).astype(np.int64)

    @property
    def joined(self) -> NDArray[np.bool_]:
        """Which nodes have an edge [nodes]."""
        return self.degrees > 0


def graph_of(num_nodes: int, left: Integers, right: Integers, weights: Floats) -> Graph:
    """Return a graph, ends in order. Raises `ValueError` for what is no simple weighted graph.

    That is for loops, an edge given twice, ends outside the nodes, and weights that are not above
    0; `NonFiniteError` for NaN or infinity among them.
    """
    low, high = np.minimum(left, right), np.maximum(left, right)
    weights = np.asarray(weights, dtype=np.float64)
    if not len(low) == len(high) == len(weights):
        raise ValueError(f"{len(left)} and {len(right)} ends of {len(weights)} weights")
    require_finite("weights", torch.from_numpy(weights))
    if len(low) and not 0 <= low.min() <= high.max() < num_nodes:
        raise ValueError(
            f"edges run from node {low.min()} to {high.max()}: wanted 0 to {num_nodes - 1}"
        )
    if (low == high).any() or len(np.unique(low * max(num_nodes, 1) + high)) < len(low):
        raise ValueError("an edge joins a node to itself, or is given twice: wanted each pair once")
    if len(weights) and weights.min() <= 0:
        raise ValueError(f"the least weight is {weights.min():.3g}: wanted all above 0")
    return Graph(num_nodes, low.astype(np.int64), high.astype(np.int64), weights)


def modularity(graph: Graph, membership: Integers) -> float:
    """Return Q of communities [nodes], numbered from 0; NaN where there is no edge.

    Raises `ValueError` where not every node has a community.
    """
    if membership.shape != (graph.num_nodes,):
        raise ValueError(
            f"communities are {list(membership.shape)}: wanted one per node, [{graph.num_nodes}]"
        )
    total = float(graph.weights.sum())
    if not total:
        return math.nan
    first, second = membership[graph.left], membership[graph.right]
    inside = float(graph.weights[first == second].sum())
    ends, both = np.concatenate([first, second]), np.tile(graph.weights, 2)
    strengths = np.bincount(ends, weights=both)
    return inside / total - float((strengths**2).sum()) / (2 * total) ** 2
