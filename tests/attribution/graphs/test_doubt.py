import numpy as np
import pytest

import dense_graphs
from bathyscope.attribution.graphs.bracket import Bracket
from bathyscope.attribution.graphs.doubt import doubt_of
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.prune import prune
from bathyscope.errors import GraphError
from dense_graphs import random_dag, truncated


def pairs(graph, mask):
    """Kept edges as target · nodes + source."""
    rows = np.repeat(np.arange(graph.num_nodes), np.diff(graph.indptr))
    kept = mask.positions()
    return set((rows[kept] * graph.num_nodes + graph.indices[kept]).tolist())


@pytest.mark.parametrize("shares", [(0.8, 0.98), (0.6, 0.9), (0.95, 0.99)])
@pytest.mark.parametrize("share", [0.8, 0.99, 0.9999])
@pytest.mark.parametrize("seed", range(15))
def test_pruning_the_whole_graph_lies_between_sure_and_possible(seed, share, shares):
    dense = random_dag(seed, latents=80, layers=3 + seed % 4, density=0.3 + 0.2 * (seed % 3))
    graph = truncated(dense, share)
    node, edge = shares
    doubt = doubt_of(graph, order_of(graph), node_threshold=node, edge_threshold=edge)
    nodes, edges = dense_graphs.prune(dense, node, edge)
    whole = set(np.flatnonzero(edges.ravel()).tolist())
    pruned = prune(graph, node_threshold=node, edge_threshold=edge)
    own = pairs(graph, pruned.edges)

    sure, possible = pairs(graph, doubt.sure_edges), pairs(graph, doubt.possible_edges)
    assert sure <= whole
    assert len(whole - possible) <= doubt.hidden_edges
    assert whole - possible <= set(np.flatnonzero(dense.matrix.ravel())) - _entries(graph)
    assert (doubt.sure_nodes <= nodes).all()
    assert (nodes <= doubt.possible_nodes).all()
    assert doubt.edge_jaccard(pruned.edges) <= len(whole & own) / max(len(whole | own), 1)
    true_jaccard = (nodes & pruned.nodes).sum() / (nodes | pruned.nodes).sum()
    assert doubt.node_jaccard(pruned.nodes) <= true_jaccard


def _entries(graph):
    rows = np.repeat(np.arange(graph.num_nodes), np.diff(graph.indptr))
    return set((rows * graph.num_nodes + graph.indices).tolist())


def test_nothing_dropped_leaves_little_doubt():
    """What is left are the widths of the histogram's bins around the thresholds."""
    dense = random_dag(0, latents=500, density=0.8)
    graph = truncated(dense, 1.0)
    doubt = doubt_of(graph, order_of(graph))
    assert doubt.hidden_edges == 0
    pruned = prune(graph)
    assert doubt.node_jaccard(pruned.nodes) > 0.99
    assert doubt.edge_jaccard(pruned.edges) > 0.9


def test_an_exact_graph_is_in_no_doubt():
    graph = random_dag(0).graph()
    with pytest.raises(GraphError, match="need no bounds"):
        doubt_of(graph, order_of(graph))


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_of_any_numbers_within_bounds_lies_in_the_interval(seed):
    rng = np.random.default_rng(seed)
    low = np.exp(2 * rng.standard_normal(300)) * (rng.random(300) < 0.9)
    up = low * (1 + 0.1 * rng.random(300)) + 0.01 * rng.random(300)
    share = rng.uniform(0.3, 0.99)
    bracket = Bracket(up.max(), bits=6)
    for part in np.array_split(np.arange(300), 3):
        bracket.add(low[part], up[part])
    rest = 0.02 * up.sum() * rng.random()
    found = bracket.interval(share, rest=rest)

    for _ in range(50):
        values = low + (up - low) * rng.random(300) ** rng.choice([0.1, 1, 10])
        further = rng.dirichlet(np.ones(10)) * rest * rng.random()
        threshold = dense_graphs.threshold(np.concatenate([values, further]), share)
        kept = values >= threshold
        assert kept[low >= found.sure].all()
        assert not kept[up < found.least].any()
    assert 0 < found.least < found.sure


def test_an_interval_by_hand():
    bracket = Bracket(8.0, bits=2)
    bracket.add(np.array([8.0, 4.0, 2.0, 2.0]), np.array([8.0, 4.0, 2.0, 2.0]))
    # 8 and 4 are three quarters of 16: the threshold for less is 4, for more 2. What is equal to
    # an end of a bin may be larger than it, so the other end is that of the next bin.
    assert bracket.interval(0.74) == (4.0, 5.0)
    assert bracket.interval(0.76) == (2.0, 2.5)
    # With up to 4 more, 12 may be as little as 0.6 of all: the threshold may be 2.
    assert bracket.interval(0.74, rest=4.0) == (2.0, 5.0)
