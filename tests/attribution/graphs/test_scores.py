import numpy as np
import pytest

import dense_graphs
from bathyscope.attribution.graphs.influence import influence_of
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.pruned_scores import (
    pruned_influence,
    pruned_scores,
    scores_over_thresholds,
)
from bathyscope.attribution.graphs.scores import scores_of
from bathyscope.errors import GraphError
from dense_graphs import Dense, random_dag, truncated


def folded(dense, kept, error_of_latent):
    """The matrix without the removed latents, their columns added to those of errors."""
    matrix = dense.matrix.astype(np.float64)
    for latent in np.flatnonzero(~kept):
        matrix[:, dense.num_latents + error_of_latent[latent]] += matrix[:, latent]
        matrix[:, latent] = matrix[latent] = 0
    return matrix


def test_removed_latents_count_as_error_with_their_sign():
    # Latents 0 and 1, error 2, token 3, logit 4. Without latent 0 the logit has error -1 + 3 = 2.
    matrix = np.zeros((5, 5), dtype=np.float32)
    matrix[0, 3] = matrix[1, 3] = 1
    matrix[4] = [3, 4, -1, 2, 0]
    graph = Dense(matrix, 2, 1, 1, 1, np.array([0.5])).graph()
    found = pruned_influence(
        graph, order_of(graph), np.array([False, True]), np.zeros(2, dtype=np.int64)
    ).nodes

    assert found == pytest.approx([0, 0.25, 0.125, 0.125 + 0.25, 0])
    assert scores_of(graph, found) == pytest.approx((0.75, 1 - 0.125 / 1.25))


@pytest.mark.parametrize("seed", range(8))
def test_scores_of_pruned_graphs_against_dense_matrices(seed):
    dense = random_dag(seed)
    graph, rng = dense.graph(), np.random.default_rng(seed)
    kept = rng.random(dense.num_latents) < 0.5
    error_of_latent = rng.integers(0, dense.num_errors, dense.num_latents)
    found = pruned_influence(graph, order_of(graph), kept, error_of_latent).nodes

    matrix = folded(dense, kept, error_of_latent)
    assert found == pytest.approx(dense_graphs.influence(matrix, dense.weights))
    assert scores_of(graph, found) == pytest.approx(dense_graphs.scores(dense, matrix))


@pytest.mark.parametrize("share", [0.9, 0.999])
@pytest.mark.parametrize("seed", range(10))
def test_pruned_scores_of_truncated_graphs_have_the_exact_ones_inside(seed, share):
    dense = random_dag(seed, latents=60, layers=3 + seed % 4)
    graph, rng = truncated(dense, share), np.random.default_rng(seed)
    order = order_of(graph)
    kept = rng.random(dense.num_latents) < 0.6
    error_of_latent = rng.integers(0, dense.num_errors, dense.num_latents)
    found = pruned_scores(graph, order, pruned_influence(graph, order, kept, error_of_latent))
    exact = dense_graphs.scores(dense, folded(dense, kept, error_of_latent))

    for name, value in zip(found.low._fields, exact, strict=True):
        low, middle, up = (getattr(s, name) for s in (found.low, found.found, found.up))
        assert low <= value <= up, name
        assert low <= middle <= up, name


def test_a_table_over_thresholds_ends_at_the_whole_graph():
    dense = random_dag(5)
    graph = dense.graph()
    order = order_of(graph)
    influence = influence_of(graph, order).nodes
    error_of_latent = np.zeros(dense.num_latents, dtype=np.int64)
    table = scores_over_thresholds(graph, order, influence, error_of_latent, [0.3, 0.8, 1.0])

    assert [line.node_threshold for line in table] == [0.3, 0.8, 1.0]
    counts = [line.num_latents for line in table]
    assert counts == sorted(counts)
    assert table[-1].scores.found == pytest.approx(scores_of(graph, influence))
    # All that is pruned away is error: fewer latents never look better here.
    replacement = [line.scores.found.replacement for line in table]
    assert replacement == sorted(replacement)


def test_pruning_without_it_would_flatter():
    """Error nodes have little influence each, so plain pruning removes what is unexplained."""
    dense = random_dag(2, latents=60)
    graph = dense.graph()
    order = order_of(graph)
    influence = influence_of(graph, order).nodes
    keep = influence >= np.quantile(influence, 0.7)
    keep[dense.num_latents + dense.num_errors :] = True
    plain = scores_of(graph, influence_of(graph, order, keep).nodes)
    errors = np.zeros(dense.num_latents, dtype=np.int64)
    kept = keep[: dense.num_latents]
    honest = pruned_scores(graph, order, pruned_influence(graph, order, kept, errors)).found

    assert honest.replacement < scores_of(graph, influence).replacement < plain.replacement


@pytest.mark.parametrize(
    ("kept", "errors", "said"),
    [
        (np.ones(3, bool), np.zeros(40, int), r"kept has shape \(3,\); wanted one for each of 40"),
        (np.ones(40, bool), np.zeros(3, int), r"error_of_latent has shape \(3,\)"),
        (np.ones(40, bool), np.full(40, 20), "from 20 to 20; the graph has errors 0 to 19"),
        (np.ones(40, bool), np.full(40, -1), "from -1"),
    ],
)
def test_masks_and_errors_that_do_not_fit(kept, errors, said):
    graph = random_dag(0).graph()
    with pytest.raises(GraphError, match=said):
        pruned_influence(graph, order_of(graph), kept, errors)
