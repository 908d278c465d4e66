"""Graphs of several layers: the strongest sources by hand, and null graphs with their margins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from bathyscope.studies.communities import leiden
from bathyscope.studies.graph_modularity import modularity
from bathyscope.studies.layered import (
    Layered,
    coactivation,
    strongest_sources,
    traded_sources,
)
from bathyscope.studies.partitions import alike

LAYERS = np.repeat(np.arange(3), 30)


def random_edges(seed: int, *, modules: int = 1) -> Layered:
    """Each target takes sources of earlier layers, of its own module where there are several."""
    draw = np.random.default_rng(seed)
    targets, sources = np.meshgrid(np.arange(90), np.arange(90), indexing="ij")
    earlier = (LAYERS[sources] < LAYERS[targets]) & (sources % modules == targets % modules)
    targets, sources = targets[earlier], sources[earlier]
    return strongest_sources(LAYERS, targets, sources, draw.random(len(targets)), 5)


def test_the_strongest_sources_by_hand() -> None:
    layers = np.array([0, 0, 0, 1, 2])
    targets, sources = np.array([3, 3, 3, 4, 4, 4]), np.array([0, 1, 2, 3, 0, 1])
    strengths = np.array([1.0, 3.0, 2.0, 0.5, 0.0, 1.5])
    found = strongest_sources(layers, targets, sources, strengths, 2)
    assert list(zip(found.targets, found.sources, strict=True)) == [(3, 1), (3, 2), (4, 3), (4, 1)]
    np.testing.assert_allclose(found.weights, [0.6, 0.4, 0.25, 0.75])
    assert found.graph.num_edges == 4
    with pytest.raises(ValueError, match="earlier layer"):
        strongest_sources(layers, np.array([3]), np.array([4]), np.ones(1), 2)


def test_traded_sources_keep_edges_between_each_two_layers() -> None:
    edges = random_edges(0)
    found = traded_sources(edges, seed=1)
    assert (found.sources != edges.sources).mean() > 0.3
    # No edge twice, and none within a layer: `graph_of` and the layers say so.
    assert found.graph.num_edges == len(edges.targets)
    assert (LAYERS[found.sources] < LAYERS[found.targets]).all()
    np.testing.assert_array_equal(found.targets, edges.targets)
    for layer in range(3):
        for node in range(90):
            ends = (found.targets == node, edges.targets == node)
            counts = [int((LAYERS[e.sources[end]] == layer).sum())
                      for e, end in zip((found, edges), ends, strict=True)]  # fmt: skip
            assert counts[0] == counts[1]
            out = [int((LAYERS[e.targets[e.sources == node]] == layer).sum())
                   for e in (found, edges)]  # fmt: skip
            assert out[0] == out[1]
        mass = [e.weights[LAYERS[e.sources] == layer].sum() for e in (found, edges)]
        assert mass[0] == pytest.approx(mass[1])


def test_modules_go_when_sources_are_traded() -> None:
    edges = random_edges(2, modules=5)
    found = leiden(edges.graph, seed=0)
    assert alike(found, np.arange(90) % 5).adjusted_rand > 0.95
    null = traded_sources(edges, seed=0).graph
    assert modularity(edges.graph, found) - modularity(null, leiden(null, seed=0)) > 0.2
    chance = random_edges(3)
    null = traded_sources(chance, seed=0).graph
    beyond = modularity(chance.graph, leiden(chance.graph, seed=0))
    assert beyond == pytest.approx(modularity(null, leiden(null, seed=0)), abs=0.05)


def test_graphs_without_edges() -> None:
    none = np.zeros(0, dtype=np.int64)
    edges = strongest_sources(LAYERS, none, none, np.zeros(0), 3)
    assert traded_sources(edges, seed=0).graph.num_edges == 0
    zero = strongest_sources(LAYERS, np.array([40]), np.array([3]), np.zeros(1), 3)
    assert zero.graph.num_edges == 0


def test_coactivation_against_dense_products() -> None:
    draw = np.random.default_rng(0)
    a, b = (draw.random((50, 8)) * (draw.random((50, 8)) < 0.3) for _ in range(2))
    targets, sources = np.array([0, 3, 3, 7]), np.array([1, 1, 5, 0])
    targets.flags.writeable = False
    found = coactivation(csr_array(a), csr_array(b), targets, sources)
    np.testing.assert_allclose(found, (a[:, targets] * b[:, sources]).sum(0))
    assert len(coactivation(csr_array(a), csr_array(b), targets[:0], sources[:0])) == 0
