import numpy as np
import pytest

import dense_graphs
from bathyscope.attribution.graphs.bounds import influence_bounds, score_bounds
from bathyscope.attribution.graphs.order import order_of
from bathyscope.errors import GraphError
from dense_graphs import Dense, random_dag, truncated


def test_bounds_by_hand():
    # Latents 0, 1, error 2, token 3, logit 4. The logit drops latent 0, a tenth of its mass.
    matrix = np.zeros((5, 5), dtype=np.float32)
    matrix[0] = [0, 0, 1, 1, 0]
    matrix[1] = [0, 0, 0, 1, 0]
    matrix[4] = [1, 9, 0, 0, 0]
    graph = truncated(Dense(matrix, 2, 1, 1, 1, np.array([1.0])), 0.9)
    order = order_of(graph)
    low, up = influence_bounds(graph, order)

    assert low == pytest.approx([0, 0.9, 0, 0.9, 0])
    # Latent 0 may have the tenth, from where it goes half and half; latent 1 is after it.
    assert up == pytest.approx([0.1, 0.9, 0.05, 0.95, 0])
    scores = score_bounds(graph, order, low)
    assert (scores.low.replacement, scores.up.replacement) == pytest.approx((0.9, 1.0))
    # Nodes with flow: logit 1, latents 0.1 and 0.9, token 0.9, and the tenth once or twice more.
    assert scores.low.completeness == pytest.approx(1 - 0.1 / 3.0)
    assert scores.up.completeness == 1


@pytest.mark.parametrize("share", [0.7, 0.95, 0.999])
@pytest.mark.parametrize("seed", range(40))
def test_the_exact_value_always_lies_inside(seed, share):
    dense = random_dag(seed, latents=60, layers=3 + seed % 5, density=0.2 + 0.2 * (seed % 4))
    graph = truncated(dense, share)
    order = order_of(graph)
    low, up = influence_bounds(graph, order)
    exact = dense_graphs.influence(dense.matrix, dense.weights)

    assert (low <= exact * (1 + 1e-9) + 1e-15).all()
    assert (exact <= up * (1 + 1e-9) + 1e-15).all()
    scores = score_bounds(graph, order, low)
    for name, value in zip(scores.low._fields, dense_graphs.scores(dense), strict=True):
        assert getattr(scores.low, name) - 1e-9 <= value <= getattr(scores.up, name) + 1e-9, name


def test_where_nothing_is_dropped_both_bounds_meet():
    dense = random_dag(0)
    graph = truncated(dense, 1.0)
    order = order_of(graph)
    low, up = influence_bounds(graph, order)
    assert up == pytest.approx(low, rel=1e-8)
    scores = score_bounds(graph, order, low)
    assert scores.low == pytest.approx(scores.up)
    assert scores.low == pytest.approx(dense_graphs.scores(dense))


def test_bounds_of_single_nodes_are_far_tighter_than_the_leak():
    dense = random_dag(0, latents=2000, layers=8, density=0.5)
    graph = truncated(dense, 0.999)
    low, up = influence_bounds(graph, order_of(graph))
    leak = 1e-3 * (low.sum() + dense.p.sum())
    assert np.median((up - low)[: dense.num_latents]) < leak / 100


def test_an_exact_graph_has_no_bounds():
    graph = random_dag(0).graph()
    with pytest.raises(GraphError, match="Every edge of this graph was kept"):
        influence_bounds(graph, order_of(graph))


def test_truncated_latents_must_be_sorted():
    dense = random_dag(0)
    nodes = np.r_[np.arange(dense.num_latents)[::-1], np.arange(dense.num_latents, 67)]
    graph = truncated(dense._replace(matrix=dense.matrix[np.ix_(nodes, nodes)]), 0.9)
    with pytest.raises(GraphError, match=r"latent 0 .* has latent \d+ as a source.*sort the nodes"):
        order_of(graph)
