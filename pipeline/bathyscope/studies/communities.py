"""Communities of a graph by Leiden (Traag, Waltman and van Eck 2019, arXiv:1810.08473).

The search is igraph's, in C. igraph is under the GPL and no dependency of this package: it is an
extra, imported where it is used.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from bathyscope.errors import DependencyError
from bathyscope.studies.graph_modularity import Graph
from bathyscope.studies.sparse_rows import Integers


def require_igraph() -> None:
    """Raise `DependencyError` where igraph is not installed."""
    _igraph()


def leiden(graph: Graph, *, seed: int) -> Integers:
    """Return communities of largest modularity that Leiden finds, int64 [nodes], from 0.

    It goes on until an iteration changes nothing. Nodes without an edge are communities by
    themselves. The same seed gives the same communities. Raises `DependencyError` without igraph.
    """
    if not graph.num_edges:
        return np.arange(graph.num_nodes, dtype=np.int64)
    igraph = _igraph()
    edges = np.stack([graph.left, graph.right], axis=1)
    made = igraph.Graph(n=graph.num_nodes, edges=edges)
    igraph.set_random_number_generator(random.Random(seed))
    try:
        found = made.community_leiden(
            objective_function="modularity", weights=graph.weights.tolist(), n_iterations=-1
        )
    finally:
        # One for the whole process: the module `random` is what igraph starts with.
        igraph.set_random_number_generator(random)
    return np.asarray(found.membership, dtype=np.int64)


def _igraph() -> Any:
    try:
        import igraph
    except ImportError as error:
        raise DependencyError(
            "Communities are found by igraph, which is missing: pip install "
            '"bathyscope[communities]"'
        ) from error
    return igraph
