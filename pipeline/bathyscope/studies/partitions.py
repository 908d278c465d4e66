"""How large the communities of a partition are, and how alike two partitions are.

Adjusted Rand index (Hubert and Arabie 1985), 1 for the same partition and 0 on average for random
ones of the same sizes: with n_ij nodes in community i of one and j of the other,

    ARI = (Σ_ij C(n_ij, 2) - E) / (½ [Σ_i C(a_i, 2) + Σ_j C(b_j, 2)] - E)
    E   = Σ_i C(a_i, 2) Σ_j C(b_j, 2) / C(n, 2)

Normalised mutual information 2 I(A; B) / (H(A) + H(B)); of random partitions into many small
communities it is well above 0, so it goes beside the ARI and not in its place.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bathyscope.studies.sparse_rows import Floats, Integers


class Alike(NamedTuple):
    """Two partitions of the same nodes; NaN for fewer than two nodes."""

    adjusted_rand: float
    mutual_information: float
    """Normalised by the mean of both entropies."""
    num_nodes: int


def sizes(membership: Integers) -> Integers:
    """Nodes of each community that has any, largest first."""
    counts = np.bincount(membership) if len(membership) else np.zeros(0, dtype=np.int64)
    return np.sort(counts[counts > 0])[::-1].astype(np.int64)


def effective_number(membership: Integers) -> float:
    """exp H of the shares of nodes: n for n communities of one size; NaN without a node."""
    counts = sizes(membership)
    return math.exp(_entropy(counts)) if len(counts) else math.nan


def alike(first: Integers, second: Integers) -> Alike:
    """Compare two partitions [nodes] of the same nodes, node by node.

    Where both are one community, or both are all apart, they are the same: 1.
    Raises `ValueError` for other numbers of nodes.
    """
    if first.shape != second.shape:
        raise ValueError(f"partitions of {len(first)} and {len(second)} nodes: wanted the same")
    num = len(first)
    if num < 2:
        return Alike(math.nan, math.nan, num)
    both = sizes(first * (int(second.max()) + 1) + second)
    a, b = sizes(first), sizes(second)
    together, of_a, of_b = _pairs(both), _pairs(a), _pairs(b)
    chance = of_a * of_b / (num * (num - 1) / 2)
    most = (of_a + of_b) / 2
    index = 1.0 if most == chance else (together - chance) / (most - chance)
    entropies = _entropy(a) + _entropy(b)
    shared = entropies - _entropy(both)
    return Alike(index, 2 * shared / entropies if entropies > 0 else 1.0, num)


def _pairs(counts: Integers) -> float:
    return float((counts * (counts - 1) / 2).sum())


def _entropy(counts: Integers) -> float:
    shares: Floats = counts / counts.sum()
    return -float((shares * np.log(shares)).sum()) + 0.0
