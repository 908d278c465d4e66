"""Counts of pairs by cluster against dense products; clusters of whole documents; bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bathyscope.errors import NonFiniteError
from bathyscope.studies import firings as module
from bathyscope.studies.firings import Firings, clusters_of, firings_of, pair_counts


def random_firings(rows: int, slots: int, num_latents: int, clusters: int) -> Firings:
    draw = np.random.default_rng(rows)
    latents = np.argsort(draw.random((rows, num_latents)), axis=1)[:, :slots]
    latents[draw.random(latents.shape) < 0.3] = -1
    return Firings(latents, np.sort(draw.integers(clusters, size=rows)), num_latents)


def dense(firings: Firings) -> np.ndarray:
    found = np.zeros((firings.num_rows, firings.num_latents))
    row, slot = np.nonzero(firings.latents >= 0)
    found[row, firings.latents[row, slot]] = 1
    return found


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_pairs_are_counted_by_cluster(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_PAIRS", chunk)
    firings = random_firings(200, 5, 12, clusters=7)
    whole = dense(firings)
    found = np.zeros((7, 12, 12))
    parts = list(pair_counts(firings))
    assert (len(parts) > 1) == (chunk < 1 << 20)
    for counted in parts:
        lengths = counted.lengths()
        found[
            counted.cluster, np.repeat(counted.left, lengths), np.repeat(counted.right, lengths)
        ] += counted.counts
        assert (counted.left < counted.right).all()
        together = (whole[:, counted.left] * whole[:, counted.right]).sum(0)
        np.testing.assert_allclose(counted.sums(counted.counts), together)
    for cluster in range(7):
        some = whole[firings.clusters == cluster]
        np.testing.assert_allclose(found[cluster], np.triu(some.T @ some, 1))
    np.testing.assert_allclose(firings.counts.sum(0), whole.sum(0))
    np.testing.assert_allclose(firings.counts[3], whole[firings.clusters == 3].sum(0))
    assert firings.rows.sum() == 200


def test_some_of_the_pairs() -> None:
    [counted] = pair_counts(random_firings(100, 4, 9, clusters=3))
    kept = np.array([1, 4, 5])
    some = counted.where(kept)
    np.testing.assert_array_equal(some.left, counted.left[kept])
    np.testing.assert_allclose(some.sums(some.counts**2), counted.sums(counted.counts**2)[kept])
    none = counted.where(np.zeros(0, dtype=np.int64))
    assert none.sums(none.counts).shape == none.lengths().shape == (0,)


def test_clusters_hold_whole_documents() -> None:
    documents = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 30, size=40))
    found = clusters_of(documents, 8)
    assert np.unique(found).tolist() == list(range(found.max() + 1))
    assert 4 <= found.max() + 1 <= 8
    for document in range(40):
        assert len(np.unique(found[documents == document])) == 1
    assert (np.diff(found) >= 0).all()
    # As many clusters as documents where there are few.
    np.testing.assert_array_equal(clusters_of(np.array([7, 7, 3, 3, 3, 9]), 6), [0, 0, 1, 1, 1, 2])
    assert clusters_of(np.zeros(0, dtype=np.int64), 4).tolist() == []
    assert clusters_of(np.zeros(5, dtype=np.int64), 4).tolist() == [0] * 5


def test_top_k_latents_become_firings() -> None:
    values = torch.tensor([[2.0, 0.0], [0.5, 1.0]])
    indices = torch.tensor([[3, 0], [4, 1]])
    found = firings_of(values, indices, torch.tensor([0, 1]), 5)
    assert found.latents.tolist() == [[-1, 3], [1, 4]]
    assert found.num_clusters == 2
    with pytest.raises(NonFiniteError, match="values"):
        firings_of(values * torch.nan, indices, torch.tensor([0, 1]), 5)


@pytest.mark.parametrize(
    ("latents", "clusters", "told"),
    [
        ([[0, 5]], [0], "run from 0 to 5: wanted -1 to 4"),
        ([[0, -2]], [0], "run from -2"),
        ([[0, 1], [2, 2]], [0, 0], "row 1 names a latent twice"),
        ([[0, 1]], [0, 0], r"\[1, 2\] and clusters \[2\]"),
    ],
)
def test_bad_firings_are_refused(latents: list[list[int]], clusters: list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Firings(np.array(latents), np.array(clusters), 5)


def test_nothing_fires() -> None:
    for latents in (np.zeros((0, 3), int), np.full((4, 3), -1), np.zeros((4, 0), int)):
        firings = Firings(latents, np.zeros(len(latents), dtype=int), 6)
        assert list(pair_counts(firings)) == []
