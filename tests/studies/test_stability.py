"""Matches of weights across seeds, dense and from candidates, and the share of unique latents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from bathyscope.errors import NonFiniteError
from bathyscope.studies import stability
from bathyscope.studies.stability import both_sides, match_weights, top_cosines, unique_share


def weights(num_latents, d=24, *, seed=0):
    return torch.randn(num_latents, d, generator=torch.Generator().manual_seed(seed))


def two_seeds(num=60, shared=40):
    """Two dictionaries of which the first latents are the same but for noise and order."""
    a, b = weights(num, seed=1), weights(num, seed=2)
    b[:shared] = 3 * a[:shared] + 0.3 * weights(shared, seed=3)
    order = torch.randperm(num, generator=torch.Generator().manual_seed(4))
    return a, b[order], order.argsort()


@pytest.mark.parametrize("dense_latents", [4096, 10])
def test_shared_latents_are_found(dense_latents: int) -> None:
    a, b, places = two_seeds()
    found = match_weights(a, b, dense_latents=dense_latents)
    assert np.array_equal(found.partners[:40], places[:40].numpy())
    assert found.share_above(0.9) == pytest.approx(40 / 60)
    assert found.exact == (dense_latents == 4096)
    assert found.summary()["overstated"] > 0


def test_candidates_reach_the_dense_sum() -> None:
    a, b, _ = two_seeds()
    dense, sparse = match_weights(a, b), match_weights(a, b, dense_latents=1, per_latent=60)
    assert sparse.cosines.sum() == pytest.approx(dense.cosines.clip(min=0).sum(), rel=2e-3)
    assert sparse.best == pytest.approx(dense.best, abs=1e-6)


def test_a_mixture_counts_once() -> None:
    a = torch.eye(3)[:2]
    b = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = match_weights(a, b)
    root = math.sqrt(0.5)
    assert found.best == pytest.approx([root, root])
    assert sorted(found.cosines.tolist()) == pytest.approx([0, root])
    assert found.summary()["overstated"] == pytest.approx(root / 2)


def test_equal_dictionaries_overstate_nothing() -> None:
    a = weights(30)
    assert match_weights(a, a).summary()["overstated"] == pytest.approx(0, abs=1e-15)
    assert match_weights(a, a, dense_latents=1).share_above(0.999) == 1


def test_both_sides_have_the_mean_of_two_cosines() -> None:
    dec_a, dec_b, enc_a, enc_b = (weights(5, d, seed=d) for d in (8, 8, 6, 6))
    dec_b, enc_b = weights(5, 8, seed=1), weights(5, 6, seed=2)
    a, b = normalize(both_sides(dec_a, enc_a)), normalize(both_sides(dec_b, enc_b))
    wanted = normalize(dec_a) @ normalize(dec_b).T + normalize(enc_a) @ normalize(enc_b).T
    assert torch.allclose(a @ b.T, wanted / 2, atol=1e-6)
    with pytest.raises(ValueError, match=r"W_enc \[4, 6\]"):
        both_sides(dec_a, enc_a[:4])


def test_unique_share_counts_both_of_a_near_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    W_dec = torch.cat([torch.eye(6), torch.eye(6)[:1] * 2, -torch.eye(6)[1:2]])
    assert unique_share(W_dec) == 6 / 8
    monkeypatch.setattr(stability, "_BLOCK_ELEMENTS", 24)
    assert unique_share(W_dec) == 6 / 8
    assert unique_share(torch.ones(1, 3)) == 1
    a = weights(50, seed=1)
    cosines = normalize(a) @ normalize(a).T - 2 * torch.eye(50)
    values, places = top_cosines(a, a, 3, same=True)
    assert torch.allclose(values, cosines.topk(3).values, atol=1e-6)
    assert torch.equal(places[:, 0], cosines.argmax(1))


def test_latents_of_length_zero_have_no_cosine() -> None:
    a = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    found = match_weights(a, a, dense_latents=1)
    assert found.partners.tolist() == [-1, 1, 2, 3]
    assert found.best[0] == 0
    assert unique_share(a) == 1


def test_bad_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 2\] and \[3, 4\]"):
        match_weights(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(ValueError, match="at least one latent"):
        unique_share(torch.ones(0, 4))
    with pytest.raises(NonFiniteError, match="rows of b"):
        match_weights(torch.ones(1, 2), torch.full((1, 2), math.nan))
