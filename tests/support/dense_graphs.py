"""Small attribution graphs as dense matrices, and their influence and pruning by the definitions.

Everything is float64, sorts whole matrices and repeats until nothing changes: what the streamed
code must agree with.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bathyscope.attribution.graphs.graph import Graph
from bathyscope.attribution.graphs.rows import RowWriter

Array = npt.NDArray[Any]


class Dense(NamedTuple):
    """A[target, source] of latents, errors, tokens and logits, in this order."""

    matrix: Array
    num_latents: int
    num_errors: int
    num_tokens: int
    num_logits: int
    p: Array

    @property
    def counts(self) -> tuple[int, int, int, int]:
        return self.num_latents, self.num_errors, self.num_tokens, self.num_logits

    def graph(self) -> Graph:
        rows, columns = np.nonzero(self.matrix)
        lengths = np.bincount(rows, minlength=len(self.matrix))
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        values = self.matrix[rows, columns].astype(np.float32)
        return Graph(indptr, columns.astype(np.int32), values, *self.counts, self.p)

    @property
    def weights(self) -> Array:
        found = np.zeros(len(self.matrix))
        found[-self.num_logits :] = self.p
        return found


def random_dag(
    seed: int, *, latents: int = 40, layers: int = 5, positions: int = 4, density: float = 0.5
) -> Dense:
    """A layered graph with heavy-tailed signed weights, its latents sorted by layer."""
    rng = np.random.default_rng(seed)
    layer = np.concatenate(
        [
            np.sort(rng.integers(0, layers, latents)),
            np.repeat(np.arange(layers), positions),
            np.full(positions, -1),
            np.full(3, layers),
        ]
    )
    n = len(layer)
    matrix = rng.standard_normal((n, n)) * np.exp(1.5 * rng.standard_normal((n, n)))
    matrix *= (layer[None, :] < layer[:, None]) & (rng.random((n, n)) < density)
    matrix[latents : n - 3] = 0
    p = 0.95 * rng.dirichlet(np.ones(3))
    return Dense(matrix.astype(np.float32), latents, layers * positions, positions, 3, p)


def truncated(dense: Dense, share: float) -> Graph:
    """The graph with rows truncated to that share of their mass."""
    writer = RowWriter(*dense.counts, share=share)
    sources = len(dense.matrix) - dense.num_logits
    targets = np.r_[np.arange(dense.num_latents), np.arange(sources, len(dense.matrix))]
    block = torch.from_numpy(dense.matrix[targets, :sources])
    writer.add(torch.from_numpy(targets), block)
    return writer.finish(dense.p)


def normalised(matrix: Array) -> Array:
    size = np.abs(matrix.astype(np.float64))
    return size / np.maximum(size.sum(axis=1, keepdims=True), 1e-10)


def influence(matrix: Array, weights: Array) -> Array:
    n = len(matrix)
    series: Array = np.linalg.inv(np.eye(n) - normalised(matrix)) - np.eye(n)
    return weights @ series


def threshold(scores: Array, share: float) -> float:
    falling = np.sort(scores[scores > 0])[::-1]
    if not len(falling):
        return np.inf
    if share == 1:
        return float(falling[-1])
    reached = np.flatnonzero(np.cumsum(falling) >= share * falling.sum())
    return float(falling[reached[0]] if len(reached) else falling[-1])


def prune(dense: Dense, node_share: float, edge_share: float) -> tuple[Array, Array]:
    """Masks of kept nodes [n] and edges [n, n]."""
    latents, errors = dense.num_latents, dense.num_errors
    scores = influence(dense.matrix, dense.weights)
    nodes = scores >= threshold(scores, node_share)
    nodes[latents + errors :] = True
    pruned = dense.matrix * nodes[:, None] * nodes[None, :]
    through = influence(pruned, dense.weights) + dense.weights
    of_edges = normalised(pruned) * through[:, None]
    edges = of_edges >= threshold(of_edges.ravel(), edge_share)
    while True:
        before = nodes.copy()
        nodes[: latents + errors] &= edges.any(axis=0)[: latents + errors]
        nodes[:latents] &= edges.any(axis=1)[:latents]
        edges &= nodes[:, None] & nodes[None, :]
        if (nodes == before).all():
            return nodes, edges


def scores(dense: Dense, matrix: Array | None = None) -> tuple[float, float]:
    """Replacement and completeness as sums over rows."""
    matrix = dense.matrix if matrix is None else matrix
    of_nodes = influence(matrix, dense.weights)
    errors = slice(dense.num_latents, dense.num_latents + dense.num_errors)
    tokens = slice(errors.stop, errors.stop + dense.num_tokens)
    to_errors, to_tokens = of_nodes[errors].sum(), of_nodes[tokens].sum()
    through = of_nodes + dense.weights
    explained = 1 - normalised(matrix)[:, errors].sum(axis=1)
    return to_tokens / (to_tokens + to_errors), (explained * through).sum() / through.sum()
