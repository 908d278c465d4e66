"""Null models keep their margins exactly, and reach every state as often."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bathyscope.studies.graph_modularity import Graph, graph_of
from bathyscope.studies.rewiring import rewired, traded


def random_graph(num_nodes: int, num_edges: int, seed: int) -> Graph:
    draw = np.random.default_rng(seed)
    pairs = np.array(np.triu_indices(num_nodes, 1))
    left, right = pairs[:, draw.choice(pairs.shape[1], num_edges, replace=False)]
    return graph_of(num_nodes, left, right, draw.random(num_edges) + 0.1)


@pytest.mark.parametrize("num_edges", [1, 2, 60, 300, 430])
def test_rewiring_keeps_every_degree_and_the_graph_simple(num_edges: int) -> None:
    graph = random_graph(30, num_edges, seed=num_edges)
    before = graph.left.copy()
    found = rewired(graph, seed=1)
    # `graph_of` refuses loops and edges that come twice.
    again = graph_of(found.num_nodes, found.left, found.right, found.weights)
    np.testing.assert_array_equal(again.degrees, graph.degrees)
    np.testing.assert_allclose(np.sort(found.weights), np.sort(graph.weights))
    np.testing.assert_array_equal(graph.left, before)
    if num_edges in (60, 300):
        same = set(zip(graph.left, graph.right, strict=True))
        kept = sum(edge in same for edge in zip(found.left, found.right, strict=True))
        # Of random graphs the share of edges in common is about that of all pairs.
        assert kept / num_edges < 0.3 + num_edges / 435


def test_every_graph_of_given_degrees_is_as_likely() -> None:
    # Degrees 2, 2, 2, 2, 2 on 5 nodes: the 12 pentagons.
    graph = graph_of(5, np.arange(5), (np.arange(5) + 1) % 5, np.ones(5))
    seen = Counter(
        tuple(sorted(zip(found.left.tolist(), found.right.tolist(), strict=True)))
        for found in (rewired(graph, seed=seed, rounds=25) for seed in range(600))
    )
    assert len(seen) == 12
    # Each 50 times, standard deviation √(50 · 11/12).
    assert max(abs(count - 50) for count in seen.values()) < 4 * np.sqrt(50 * 11 / 12)


def test_graphs_that_cannot_be_rewired_stay() -> None:
    empty = graph_of(3, np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    assert rewired(empty, seed=0).num_edges == 0
    triangle = graph_of(3, np.array([0, 1, 0]), np.array([1, 2, 2]), np.ones(3))
    found = rewired(triangle, seed=0)
    assert set(zip(found.left, found.right, strict=True)) == {(0, 1), (1, 2), (0, 2)}


def firings(rows: int, slots: int, num_latents: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    found = np.argsort(draw.random((rows, num_latents)), axis=1)[:, :slots]
    found[draw.random((rows, slots)) < 0.2] = -1
    return found


def columns(latents: np.ndarray, num_latents: int) -> np.ndarray:
    return np.bincount(latents[latents >= 0], minlength=num_latents)


@pytest.mark.parametrize(("rows", "slots"), [(64, 5), (65, 1), (63, 12), (1, 3), (2, 2)])
def test_trades_keep_l0_and_firings_exactly(rows: int, slots: int) -> None:
    before = firings(rows, slots, 16, seed=rows)
    found = traded(before, seed=0, rounds=7)
    np.testing.assert_array_equal(found < 0, before < 0)
    np.testing.assert_array_equal(columns(found, 16), columns(before, 16))
    for row in found:
        used = row[row >= 0]
        assert len(set(used.tolist())) == len(used)
    assert (rows > 2 and slots > 1) <= bool((np.sort(found) != np.sort(before)).any())


def test_trades_within_groups_keep_what_each_group_fires() -> None:
    before = firings(300, 6, 24, seed=3)
    groups = np.random.default_rng(0).integers(20, size=300)
    found = traded(before, groups, seed=1, rounds=9)
    assert (found != before).any()
    for group in range(20):
        some = groups == group
        np.testing.assert_array_equal(columns(found[some], 24), columns(before[some], 24))
    np.testing.assert_array_equal((found >= 0).sum(1), (before >= 0).sum(1))
    alone = traded(before, np.arange(300), seed=1, rounds=9)
    np.testing.assert_array_equal(alone, before)


def in_copies(latents: np.ndarray, num: int, rounds: int) -> np.ndarray:
    """The same rows traded in so many groups by themselves [copies, rows, slots]."""
    groups = np.repeat(np.arange(num), len(latents))
    found = traded(np.tile(latents, (num, 1)), groups, seed=0, rounds=rounds)
    return found.reshape(num, *latents.shape)


def test_every_matrix_of_given_margins_is_as_likely() -> None:
    # Three rows of one latent each, all different: 6 matrices.
    found = in_copies(np.array([[0], [1], [2]]), 1200, rounds=12)
    seen = Counter(tuple(copy.ravel().tolist()) for copy in found)
    assert len(seen) == 6
    assert max(abs(count - 200) for count in seen.values()) < 4 * np.sqrt(200 * 5 / 6)
    # Rows of 2 and 1 slots on margins (1, 1, 1): 3 matrices.
    found = in_copies(np.array([[0, 1], [2, -1]]), 900, rounds=5)
    sets = Counter(frozenset(copy[0].tolist()) for copy in found)
    assert len(sets) == 3
    assert max(abs(count - 300) for count in sets.values()) < 4 * np.sqrt(300 * 2 / 3)


def test_nothing_to_trade() -> None:
    empty = np.zeros((0, 4), dtype=np.int64)
    assert traded(empty, seed=0, rounds=3).shape == (0, 4)
    unused = np.full((4, 2), -1)
    np.testing.assert_array_equal(traded(unused, seed=0, rounds=3), unused)
