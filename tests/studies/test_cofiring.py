"""Tests of firing together against their formula, and against chance that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from bathyscope.studies.cofiring import (
    CoFiring,
    false_discovery_bound,
    significant,
    strongest,
)
from bathyscope.studies.communities import leiden
from bathyscope.studies.excess import beyond
from bathyscope.studies.firings import Firings
from bathyscope.studies.partitions import alike
from bathyscope.studies.rewiring import traded


def of_matrix(fires: np.ndarray, clusters: np.ndarray) -> Firings:
    """Firings from a matrix of rows and latents."""
    slots = int(fires.sum(1).max())
    latents = np.full((len(fires), slots), -1)
    for row, which in enumerate(fires):
        found = np.flatnonzero(which)
        latents[row, : len(found)] = found
    return Firings(latents, clusters, fires.shape[1])


def independent(rows: int, num_latents: int, clusters: int, seed: int) -> Firings:
    draw = np.random.default_rng(seed)
    chances = draw.uniform(0.02, 0.2, num_latents)
    return of_matrix(draw.random((rows, num_latents)) < chances, np.arange(rows) * clusters // rows)


def modules(rows: int, num: int, size: int, seed: int) -> Firings:
    """Each row fires three latents of one of `num` modules, and two of any."""
    draw = np.random.default_rng(seed)
    fires = np.zeros((rows, num * size), dtype=bool)
    for row in range(rows):
        own = draw.integers(num) * size + draw.choice(size, 3, replace=False)
        fires[row, own] = fires[row, draw.choice(num * size, 2)] = True
    return of_matrix(fires, np.arange(rows) * 60 // rows)


def test_phi_and_t_are_those_of_their_formula() -> None:
    firings = modules(900, 4, 6, seed=0)
    fires = np.zeros((900, 24))
    row, slot = np.nonzero(firings.latents >= 0)
    fires[row, firings.latents[row, slot]] = 1
    found = CoFiring(firings).tested(neighbours=24)
    correlations = np.corrcoef(fires.T)
    np.testing.assert_allclose(found.phi, correlations[found.left, found.right])
    p = fires.mean(0)
    for left, right, t in list(zip(found.left, found.right, found.t, strict=True))[::7]:
        each = (fires[:, left] - p[left]) * (fires[:, right] - p[right])
        sums = np.bincount(firings.clusters, weights=each)
        assert t == pytest.approx(ttest_1samp(sums, 0).statistic)
    keep = np.arange(60) % 2 == 0
    half = CoFiring(firings).tested(24, keep)
    rows = keep[firings.clusters]
    alone = CoFiring(Firings(firings.latents[rows], firings.clusters[rows] // 2, 24)).tested(24)
    np.testing.assert_allclose(half.t, alone.t)
    np.testing.assert_allclose(half.phi, alone.phi)
    assert (half.num_clusters, half.num_usable) == (30, 24)


def test_independent_latents_have_no_edges() -> None:
    edges = [
        significant(CoFiring(independent(3000, 60, 50, seed)).tested(16), rate=0.05).num_edges
        for seed in range(8)
    ]
    # Under independence a rate of 5 % is the chance of any edge at all.
    assert sum(count > 0 for count in edges) <= 2


def test_planted_modules_are_found_and_no_chance_joins_them() -> None:
    firings = modules(4000, 5, 8, seed=1)
    graph = significant(CoFiring(firings).tested(16), rate=0.05)
    truth = np.arange(40) // 8
    assert alike(leiden(graph, seed=0), truth).adjusted_rand == pytest.approx(1)
    assert (truth[graph.left] == truth[graph.right]).mean() > 0.95
    assert (graph.weights > 0).all()
    null = CoFiring(firings.with_latents(traded(firings.latents, seed=0, rounds=20))).tested(16)
    assert significant(null, rate=0.05).num_edges <= 1
    # Rows of equal L0 fire most pairs less than independent ones would: few are above chance.
    assert strongest(null, 10).num_edges == 10
    assert strongest(null, graph.num_edges).num_edges == len(null.t) < graph.num_edges
    assert strongest(null, 10).weights.min() > 0


def test_one_document_is_no_evidence() -> None:
    fires = np.random.default_rng(0).random((4000, 30)) < 0.05
    # In 100 rows of one document of 40 two latents always fire together.
    fires[:100, :2] = True
    tested = CoFiring(of_matrix(fires, np.arange(4000) // 100)).tested(30)
    pair = np.flatnonzero((tested.left == 0) & (tested.right == 1))
    assert tested.phi[pair] > 0.2
    assert tested.t[pair] < 1.2
    assert not significant(tested, rate=0.05).num_edges


def test_only_the_surest_neighbours_are_kept() -> None:
    tested = CoFiring(modules(2000, 2, 10, seed=2)).tested(neighbours=3)
    graph = significant(tested, rate=0.05)
    # The third largest t of each latent is the least that either end needs.
    assert graph.num_edges < 20 * 3
    assert (np.bincount(np.concatenate([tested.left, tested.right])) >= 3).all()


@pytest.mark.parametrize(
    "fires",
    [
        np.zeros((50, 3), dtype=bool),
        np.ones((50, 3), dtype=bool),
        np.eye(50, 4, dtype=bool),
    ],
)
def test_latents_that_never_vary_or_meet_have_no_edges(fires: np.ndarray) -> None:
    firings = of_matrix(fires, np.arange(50) // 10)
    tested = CoFiring(firings).tested(4)
    assert len(tested.t) == 0
    assert significant(tested, rate=0.05).num_edges == 0
    assert strongest(tested, 5).num_edges == 0
    assert len(beyond(firings, [firings.latents], 4).t) == 0


def test_one_cluster_tells_nothing() -> None:
    firings = modules(300, 2, 6, seed=3)
    one = Firings(firings.latents, np.zeros(300, dtype=np.int64), 12)
    assert significant(CoFiring(one).tested(6), rate=0.05).num_edges == 0
    assert len(beyond(one, [one.latents], 6).t) == 0


def test_the_bound_by_hand() -> None:
    p = np.array([0.001, 0.004, 0.02, 0.5])
    # m = 4, Σ 1/i = 25/12: r · 0.05 / (25/3) = 0.006, 0.012, 0.018, 0.024.
    assert false_discovery_bound(p, 4, 0.05) == 0.004
    assert false_discovery_bound(p[::-1], 4, 0.05) == 0.004
    assert false_discovery_bound(p + 0.1, 4, 0.05) == -1
    assert false_discovery_bound(np.zeros(0), 10, 0.05) == -1
    harmonic = sum(1 / i for i in range(1, 1001))
    least = 0.05 / (1000 * harmonic)
    assert false_discovery_bound(np.array([0.9999 * least]), 1000, 0.05) > 0
    assert false_discovery_bound(np.array([1.0001 * least]), 1000, 0.05) == -1
    for p_values, num, rate in ((p, 3, 0.05), (p, 4, 1.0), (p, 4, 0.0)):
        with pytest.raises(ValueError, match="wanted a rate"):
            false_discovery_bound(p_values, num, rate)


def with_tokens(rows: int, seed: int, *, topics: bool) -> tuple[Firings, np.ndarray]:
    """Each of 20 tokens fires two latents of its own; topics fire pairs of others."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(20, size=rows)
    fires = draw.random((rows, 60)) < 0.04
    for half in (0, 1):
        fires[np.arange(rows), 2 * tokens + half] |= draw.random(rows) < 0.8
    if topics:
        topic = draw.integers(5, size=rows)
        on = draw.random(rows) < 0.5
        for half in (0, 1):
            fires[np.arange(rows), 40 + 2 * topic + half] |= on
    return of_matrix(fires, np.arange(rows) * 60 // rows), tokens


def test_what_the_token_makes_is_no_edge_beyond_it() -> None:
    firings, tokens = with_tokens(6000, 0, topics=False)
    plain = significant(CoFiring(firings).tested(16), rate=0.05)
    pairs = set(zip(plain.left.tolist(), plain.right.tolist(), strict=True))
    assert {(2 * t, 2 * t + 1) for t in range(20)} <= pairs
    copies = [traded(firings.latents, tokens, seed=s, rounds=20) for s in range(2)]
    assert significant(beyond(firings, copies, 16), rate=0.05).num_edges <= 1


def test_what_goes_beyond_the_token_is_found() -> None:
    firings, tokens = with_tokens(6000, 1, topics=True)
    copies = [traded(firings.latents, tokens, seed=s, rounds=20) for s in range(2)]
    tested = beyond(firings, copies, 16)
    graph = significant(tested, rate=0.05)
    assert {(40 + 2 * t, 41 + 2 * t) for t in range(5)} == set(
        zip(graph.left.tolist(), graph.right.tolist(), strict=True)
    )
    # By hand for one of them: the sums by cluster of real pairs less the mean of both copies.
    sums = np.zeros(60)
    for latents, weight in ((firings.latents, 1.0), (copies[0], -0.5), (copies[1], -0.5)):
        both = (latents == 40).any(1) & (latents == 41).any(1)
        sums += weight * np.bincount(firings.clusters, weights=both, minlength=60)
    place = np.flatnonzero((tested.left == 40) & (tested.right == 41))
    assert tested.t[place] == pytest.approx(ttest_1samp(sums, 0).statistic)
    p, q = firings.counts.sum(0)[40:42] / 6000
    assert tested.phi[place] == pytest.approx(
        sums.sum() / 6000 / math.sqrt(p * (1 - p) * q * (1 - q))
    )
    with pytest.raises(ValueError, match="one at least"):
        beyond(firings, [], 16)
