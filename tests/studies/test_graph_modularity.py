"""Q by hand: cliques joined by an edge, a ring of cliques, and what is no graph."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from bathyscope.errors import NonFiniteError
from bathyscope.studies.graph_modularity import Graph, graph_of, modularity


def made(num_nodes: int, edges: list[tuple[int, int]], weights: list[float] | None = None) -> Graph:
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    return graph_of(num_nodes, ends[:, 0], ends[:, 1], np.array(weights or [1.0] * len(edges)))


def cliques(num: int, size: int, joints: list[tuple[int, int]]) -> Graph:
    inside = [
        (clique * size + a, clique * size + b)
        for clique in range(num)
        for a, b in combinations(range(size), 2)
    ]
    return made(num * size, inside + joints)


def test_two_triangles_joined_by_an_edge() -> None:
    graph = cliques(2, 3, [(2, 3)])
    halves = np.array([0, 0, 0, 1, 1, 1])
    # 7 edges, 3 in each half, degrees sum to 7 in each: 6/7 - 2 (7/14)².
    assert modularity(graph, halves) == pytest.approx(6 / 7 - 1 / 2)
    assert modularity(graph, np.zeros(6, dtype=int)) == pytest.approx(0)
    # All apart: minus the sum of (degree / 2W)².
    assert modularity(graph, np.arange(6)) == pytest.approx(-(4 * 4 + 2 * 9) / 14**2)
    np.testing.assert_array_equal(graph.degrees, [2, 2, 3, 3, 2, 2])


def test_a_ring_of_cliques() -> None:
    num, size = 6, 5
    joints = [(c * size, ((c + 1) % num) * size + 1) for c in range(num)]
    graph = cliques(num, size, joints)
    inside = size * (size - 1) / 2
    # Fortunato and Barthélemy 2007: Q = 1 - 1 / (inside + 1) - 1 / num, one community per clique.
    expected = 1 - 1 / (inside + 1) - 1 / num
    assert modularity(graph, np.arange(num * size) // size) == pytest.approx(expected)


def test_weights_count() -> None:
    graph = made(4, [(0, 1), (2, 3), (1, 2)], [3.0, 2.0, 1.0])
    # W = 6, inside 5; strengths 3 + 4 and 3 + 2.
    expected = 5 / 6 - (7**2 + 5**2) / 12**2
    assert modularity(graph, np.array([0, 0, 1, 1])) == pytest.approx(expected)
    doubled = graph._replace(weights=2 * graph.weights)
    assert modularity(doubled, np.array([0, 0, 1, 1])) == pytest.approx(expected)


def test_nodes_without_an_edge_change_nothing() -> None:
    graph = made(7, [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)])
    assert modularity(graph, np.array([0, 0, 0, 1, 1, 1, 9])) == pytest.approx(6 / 7 - 1 / 2)
    np.testing.assert_array_equal(graph.joined, [True] * 6 + [False])


def test_empty_graphs_have_no_q() -> None:
    for num_nodes in (0, 1, 5):
        graph = made(num_nodes, [])
        assert math.isnan(modularity(graph, np.arange(num_nodes)))
        assert graph.num_edges == 0
        assert not graph.joined.any()


@pytest.mark.parametrize(
    ("edges", "weights", "told"),
    [
        ([(1, 1)], [1.0], "joins a node to itself"),
        ([(0, 1), (1, 0)], [1.0, 1.0], "given twice"),
        ([(0, 3)], [1.0], "run from node 0 to 3"),
        ([(-1, 1)], [1.0], "run from node -1"),
        ([(0, 1)], [0.0], "least weight is 0"),
        ([(0, 1)], [1.0, 2.0], "2 weights"),
    ],
)
def test_what_is_no_graph_is_refused(
    edges: list[tuple[int, int]], weights: list[float], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        made(3, edges, weights)


def test_nan_and_other_numbers_of_nodes_are_refused() -> None:
    with pytest.raises(NonFiniteError, match="weights"):
        made(2, [(0, 1)], [math.nan])
    with pytest.raises(ValueError, match="wanted one per node"):
        modularity(made(3, [(0, 1)]), np.zeros(2, dtype=int))
