"""Leiden finds planted communities, and some where there are none: why null graphs are needed."""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pytest

from bathyscope.errors import DependencyError
from bathyscope.studies.communities import leiden, require_igraph
from bathyscope.studies.graph_modularity import Graph, graph_of, modularity
from bathyscope.studies.partitions import alike
from bathyscope.studies.rewiring import rewired


def planted(blocks: int, size: int, inside: float, between: float, seed: int) -> Graph:
    """Blocks of nodes with edges of one probability inside and another between."""
    draw = np.random.default_rng(seed)
    num = blocks * size
    left, right = np.triu_indices(num, 1)
    chance = np.where(left // size == right // size, inside, between)
    some = draw.random(len(left)) < chance
    return graph_of(num, left[some], right[some], np.ones(int(some.sum())))


def test_planted_blocks_are_found() -> None:
    graph = planted(8, 30, inside=0.4, between=0.01, seed=0)
    found = leiden(graph, seed=0)
    truth = np.arange(240) // 30
    assert alike(found, truth).adjusted_rand == pytest.approx(1)
    assert modularity(graph, found) == pytest.approx(modularity(graph, truth))
    null = [rewired(graph, seed=seed) for seed in range(5)]
    chance = [modularity(each, leiden(each, seed=0)) for each in null]
    assert modularity(graph, found) - max(chance) > 0.3


def test_a_ring_of_cliques_is_found() -> None:
    cliques = [(6 * c + a, 6 * c + b) for c in range(8) for a, b in combinations(range(6), 2)]
    joints = [(6 * c, (6 * c + 7) % 48) for c in range(8)]
    ends = np.array(cliques + joints)
    graph = graph_of(48, ends[:, 0], ends[:, 1], np.ones(len(ends)))
    found = leiden(graph, seed=3)
    assert alike(found, np.arange(48) // 6).adjusted_rand == pytest.approx(1)
    # 15 edges in each clique: Q = 1 - 1 / 16 - 1 / 8.
    assert modularity(graph, found) == pytest.approx(1 - 1 / 16 - 1 / 8)


def test_a_random_graph_has_modularity_and_its_null_graphs_have_it_too() -> None:
    # Mean degree 4: Guimera et al. 2004 expect (1 - 2/√n)(2/4)^(2/3), about 0.57 for n = 400.
    graph = planted(1, 400, inside=4 / 399, between=0, seed=1)
    q = modularity(graph, leiden(graph, seed=0))
    assert 0.5 < q < 0.68
    null = [rewired(graph, seed=seed) for seed in range(10)]
    chance = np.array([modularity(each, leiden(each, seed=0)) for each in null])
    assert abs(q - chance.mean()) < 4 * chance.std(ddof=1) + 0.005


def test_weights_decide() -> None:
    # A square whose opposite sides are strong.
    ends = np.array([[0, 1], [2, 3], [1, 2], [0, 3]])
    graph = graph_of(4, ends[:, 0], ends[:, 1], np.array([9.0, 9.0, 1.0, 1.0]))
    found = leiden(graph, seed=0)
    assert found[0] == found[1] != found[2] == found[3]


def test_the_same_seed_gives_the_same_communities_and_leaves_others_alone() -> None:
    import random

    graph = planted(1, 200, inside=0.03, between=0, seed=2)
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first, second = leiden(graph, seed=7), leiden(graph, seed=7)
    assert random.random() == expected
    np.testing.assert_array_equal(first, second)
    assert any((leiden(graph, seed=seed) != first).any() for seed in range(5))


def test_empty_and_isolated() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert leiden(graph_of(0, none, none, np.zeros(0)), seed=0).tolist() == []
    assert leiden(graph_of(3, none, none, np.zeros(0)), seed=0).tolist() == [0, 1, 2]
    found = leiden(graph_of(4, np.array([1]), np.array([2]), np.ones(1)), seed=0)
    assert len(set(found.tolist())) == 3
    assert found[1] == found[2]


def test_without_igraph_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    require_igraph()
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(DependencyError, match=r'pip install "bathyscope\[communities\]"'):
        require_igraph()
