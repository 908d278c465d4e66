import numpy as np
import pytest

import dense_graphs
from bathyscope.attribution.graphs.graph import Graph
from bathyscope.attribution.graphs.influence import influence_of
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.prune import prune
from bathyscope.attribution.graphs.scores import scores_of
from bathyscope.errors import GraphError
from dense_graphs import Dense, random_dag


def small(rows, counts, p=(1.0,)):
    """A graph from {target: {source: value}}."""
    n = sum(counts)
    matrix = np.zeros((n, n), dtype=np.float32)
    for target, sources in rows.items():
        for source, value in sources.items():
            matrix[target, source] = value
    return Dense(matrix, *counts, np.array(p)).graph()


# Nodes: latents 0 and 1, error 2, token 3, logit 4.
CHAIN = {0: {3: 2.0}, 1: {0: -3.0, 2: 1.0}, 4: {0: 1.0, 1: -1.0, 3: 2.0}}
COUNTS = (2, 1, 1, 1)


def edges_of(graph, pruned):
    rows = np.repeat(np.arange(graph.num_nodes), np.diff(graph.indptr))
    kept = pruned.edges.positions()
    return set(zip(rows[kept].tolist(), np.asarray(graph.indices)[kept].tolist(), strict=True))


def test_influence_by_hand():
    graph = small(CHAIN, COUNTS, p=[0.8])
    found = influence_of(graph, order_of(graph))

    # Logit: a quarter to each latent, half to the token. Latent 1: 3/4 to latent 0, 1/4 error.
    # Latent 0 then has 0.2 + 0.15, and gives all of it to the token.
    assert found.nodes == pytest.approx([0.35, 0.2, 0.05, 0.4 + 0.35, 0.0])
    assert found.rates == pytest.approx([0.35 / 2, 0.2 / 4, 0, 0, 0.8 / 4])


def test_scores_by_hand():
    graph = small(CHAIN, COUNTS, p=[0.8])
    found = scores_of(graph, influence_of(graph, order_of(graph)).nodes)

    assert found.replacement == pytest.approx(0.75 / 0.8)
    # Through nodes flow 0.35 + 0.2 + 0.05 + 0.75 + 0.8; only latent 1 has error, a quarter.
    assert found.completeness == pytest.approx(1 - 0.2 / 4 / 2.15)


def test_pruning_by_hand():
    graph = small(CHAIN, COUNTS)
    # Influence 0.4375, 0.25, 0.0625, 0.9375: shares 0.556, 0.815, 0.963, 1.
    pruned = prune(graph, node_threshold=0.8, edge_threshold=1.0)
    assert pruned.nodes.tolist() == [True, False, False, True, True]
    # Without latent 1 the logit has a third from latent 0 and two from the token.
    assert edges_of(graph, pruned) == {(0, 3), (4, 0), (4, 3)}
    assert pruned.cumulative_shares() == pytest.approx(
        np.array([1.375, 1.625, 1.6875, 0.9375, 1.6875]) / 1.6875
    )

    # Edges 4<-3 2/3, 4<-0 1/3, 0<-3 1/3: the first two thirds of 4/3 are one edge and a tie.
    pruned = prune(graph, node_threshold=0.8, edge_threshold=0.6)
    assert edges_of(graph, pruned) == {(0, 3), (4, 0), (4, 3)}
    pruned = prune(graph, node_threshold=0.8, edge_threshold=0.4)
    assert edges_of(graph, pruned) == {(4, 3)}
    assert pruned.nodes.tolist() == [False, False, False, True, True]


def test_a_latent_without_incoming_edge_takes_what_hangs_on_it_along():
    # Latents 0, 1, 2, error 3, tokens 4 to 7, logit 8. Latent 2 lives on 0, and 0 on four tokens.
    rows = {
        0: {4: 1.0, 5: 1.0, 6: 1.0, 7: 1.0},
        1: {0: 1.0, 7: 9.0},
        2: {0: 1.0},
        8: {1: 9.0, 2: 1.0},
    }
    graph = small(rows, (3, 1, 4, 1))
    # Scores: 8<-1 .9, 1<-7 .81, 8<-2 and 2<-0 .1, 1<-0 .09, and four times .0475 into latent 0.
    everything = prune(graph, node_threshold=1.0, edge_threshold=1.0)
    assert everything.edges.count == 9
    assert everything.nodes.tolist() == [True] * 3 + [False] + [True] * 5
    # Five edges have 2.0 of 2.19. Nothing enters latent 0: it goes, then 2, with three of them.
    pruned = prune(graph, node_threshold=1.0, edge_threshold=0.9)
    assert edges_of(graph, pruned) == {(8, 1), (1, 7)}
    assert pruned.nodes.tolist() == [False, True, False, False] + [True] * 5


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("node", "edge"), [(0.8, 0.98), (0.5, 0.7), (0.95, 0.6), (1.0, 1.0)])
def test_random_graphs_are_pruned_as_sorting_everything_would(seed, node, edge):
    dense = random_dag(seed)
    graph = dense.graph()
    pruned = prune(graph, node_threshold=node, edge_threshold=edge)
    nodes, edges = dense_graphs.prune(dense, node, edge)

    assert pruned.nodes.tolist() == nodes.tolist()
    assert edges_of(graph, pruned) == set(zip(*map(list, np.nonzero(edges)), strict=True))
    assert pruned.influence.nodes == pytest.approx(
        dense_graphs.influence(dense.matrix, dense.weights), abs=1e-12
    )
    assert scores_of(graph, pruned.influence.nodes) == pytest.approx(dense_graphs.scores(dense))


def test_the_order_of_latents_does_not_matter():
    dense = random_dag(3)
    shuffled = np.random.default_rng(0).permutation(dense.num_latents)
    nodes = np.concatenate([shuffled, np.arange(dense.num_latents, len(dense.matrix))])
    graph = dense._replace(matrix=dense.matrix[np.ix_(nodes, nodes)]).graph()

    pruned, straight = prune(graph), prune(dense.graph())
    assert pruned.nodes.tolist() == straight.nodes[nodes].tolist()
    assert pruned.edges.count == straight.edges.count
    moved = {(nodes[t], nodes[s]) for t, s in edges_of(graph, pruned)}
    assert moved == edges_of(dense.graph(), straight)


def test_threshold_zero_keeps_the_one_largest():
    dense = random_dag(1)
    pruned = prune(dense.graph(), node_threshold=0.0, edge_threshold=0.0)
    # The most influential node is a token here, so no latent stays, and the largest edge alone.
    assert not pruned.nodes[: dense.num_latents].any()
    assert pruned.edges.count <= 1


def test_equal_edges_stay_or_go_together():
    # Four latents alike: each carries a quarter.
    rows = {n: {5: 1.0} for n in range(4)} | {6: dict.fromkeys(range(4), 1.0)}
    graph = small(rows, (4, 1, 1, 1))
    for share in (0.01, 0.3, 0.6, 1.0):
        pruned = prune(graph, node_threshold=1.0, edge_threshold=share)
        assert pruned.edges.count == 8
        assert pruned.nodes.tolist() == [True] * 4 + [False, True, True]


def test_no_latents_at_all():
    graph = small({2: {0: 1.0, 1: 3.0}}, (0, 1, 1, 1))
    pruned = prune(graph)
    # Error 0 has a quarter of the influence: the token alone has under 0.8, so both stay.
    assert pruned.nodes.tolist() == [True, True, True]
    assert scores_of(graph, pruned.influence.nodes) == (0.75, pytest.approx(1 - 0.25 / 2))


def test_one_latent():
    graph = small({0: {2: -1.0}, 3: {0: 5.0}}, (1, 1, 1, 1))
    pruned = prune(graph, node_threshold=1.0, edge_threshold=1.0)
    assert pruned.nodes.tolist() == [True, False, True, True]
    assert scores_of(graph, pruned.influence.nodes) == (1.0, 1.0)


def test_rows_of_zeros_and_empty_rows_give_nothing():
    # Latent 0 has an edge of value 0 only, latent 1 no edge; tiny rows are divided by 1e-10.
    graph = Graph(
        np.array([0, 1, 1, 1, 1, 4]),
        np.array([3, 0, 1, 3], dtype=np.int32),
        np.array([0.0, 1e-12, 1e-12, 0.0], dtype=np.float32),
        2,
        1,
        1,
        1,
        np.array([1.0]),
    )
    pruned = prune(graph)
    assert pruned.influence.nodes == pytest.approx([0.01, 0.01, 0, 0, 0])
    assert pruned.nodes.tolist() == [False, False, False, True, True]
    assert pruned.edges.count == 0
    assert np.isnan(scores_of(graph, pruned.influence.nodes).replacement)


def test_a_graph_without_edges():
    graph = small({}, COUNTS)
    pruned = prune(graph)
    assert pruned.nodes.tolist() == [False, False, False, True, True]
    assert pruned.edges.positions().tolist() == []
    assert pruned.cumulative_shares().tolist() == [0.0] * 5


@pytest.mark.parametrize("name", ["node_threshold", "edge_threshold"])
@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_thresholds_that_are_no_share(name, share):
    with pytest.raises(GraphError, match=f"{name} is {share}"):
        prune(small(CHAIN, COUNTS), **{name: share})
