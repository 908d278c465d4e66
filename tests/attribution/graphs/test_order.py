import numpy as np
import pytest

from bathyscope.attribution.graphs.graph import Graph
from bathyscope.attribution.graphs.order import order_of
from bathyscope.errors import GraphError, NonFiniteError
from dense_graphs import random_dag


def graph(indptr, indices, values=None, counts=(3, 1, 1, 1), p=(1.0,)):
    values = np.ones(len(indices)) if values is None else np.array(values)
    return Graph(
        np.array(indptr),
        np.array(indices, dtype=np.int32),
        values.astype(np.float32),
        *counts,
        np.array(p),
    )


def runs(graph):
    return [run.tolist() for run in order_of(graph).runs]


def test_sorted_latents_are_cut_where_an_edge_would_be_inside():
    # 2 <- 1 is the only edge between latents: 0 and 1 go together.
    assert runs(graph([0, 1, 2, 3, 3, 3, 4], [4, 4, 1, 2])) == [[0, 1], [2], [5]]
    assert runs(graph([0, 1, 2, 3, 3, 3, 4], [4, 0, 1, 2])) == [[0], [1], [2], [5]]
    assert runs(graph([0] * 7, [])) == [[0, 1, 2], [5]]


def test_unsorted_latents_go_by_levels():
    # 0 <- 2 <- 1
    assert runs(graph([0, 1, 2, 3, 3, 3, 4], [2, 4, 1, 0])) == [[1], [2], [0], [5]]


def test_runs_of_a_layered_graph_are_about_its_layers():
    dense = random_dag(0, latents=200, layers=6)
    assert order_of(dense.graph()).depth <= 7


def test_a_cycle_names_its_nodes():
    # 0 <- 2 <- 1 <- 0, and the logit hangs on it.
    with pytest.raises(GraphError, match=r"cycle through latent 0 \(node 0\), latent 2 .*latent 1"):
        order_of(graph([0, 1, 2, 3, 3, 3, 4], [2, 0, 1, 0]))
    with pytest.raises(GraphError, match=r"cycle through latent 1 \(node 1\)\. Direct"):
        order_of(graph([0, 1, 2, 3, 3, 3, 4], [4, 1, 1, 0]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_target_and_source(value):
    broken = graph([0, 1, 2, 3, 3, 3, 5], [4, 4, 1, 0, 2], [1, 1, 1, 1, value])
    with pytest.raises(NonFiniteError, match=r"to logit 0 \(node 5\) from latent 2 \(node 2\)"):
        order_of(broken)


@pytest.mark.parametrize(
    ("indices", "said"),
    [
        ([4, 4, 1, 0, 5], r"from logit 0 \(node 5\).* has no source"),
        ([4, 4, 1, 0, 9], "node 9, which is none of 3 latents"),
        ([4, 4, 1, -1, 2], "node -1"),
        ([4, 4, 1, 2, 0], r"to logit 0 \(node 5\) from latent 0 .* comes after a later source"),
        ([4, 4, 1, 2, 2], "or twice"),
    ],
)
def test_indices_that_are_no_sources(indices, said):
    with pytest.raises(GraphError, match=said):
        order_of(graph([0, 1, 2, 3, 3, 3, 5], indices))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"indptr": [0, 1, 2, 3, 3, 4]}, r"indptr has shape \(6,\).*needs \(7,\)"),
        ({"indptr": [0, 2, 1, 3, 3, 3, 4]}, "never fall"),
        ({"indptr": [1, 1, 2, 3, 3, 3, 4]}, "start at 0"),
        ({"indptr": [0, 1, 2, 3, 3, 3, 5]}, "ends at 5, with 4 indices and 4 values"),
        ({"values": [1, 1, 1]}, "4 indices and 3 values"),
        ({"indptr": [0, 1, 2, 3, 4, 4, 4]}, r"error 0 \(node 3\) has incoming edges"),
        ({"p": [0.5, 0.5]}, r"\(2,\) probabilities for 1 logits"),
        ({"p": [-0.5]}, "negative: -0.5"),
        ({"counts": (3, 1, 2, 0)}, "and a logit"),
    ],
)
def test_arrays_that_do_not_fit(changed, said):
    given = {"indptr": [0, 1, 2, 3, 3, 3, 4], "indices": [4, 4, 1, 2]} | changed
    with pytest.raises(GraphError, match=said):
        graph(**given)


def test_a_probability_that_is_not_finite():
    with pytest.raises(NonFiniteError, match="probability of logit 0 is nan"):
        graph([0] * 7, [], p=[np.nan])
