"""Matches of sparse latents against dense Pearson, planted permutations and mixtures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from bathyscope.dictionaries.dictionary import topk_autoencoder
from bathyscope.errors import NonFiniteError
from bathyscope.studies import latent_pairs
from bathyscope.studies.jackknife import jackknife
from bathyscope.studies.latent_pairs import LatentPairs
from bathyscope.studies.matching import candidates, match_latents, rescored


def sparse_latents(num_rows, num_latents, *, share=0.1, seed=0):
    """Dense activations ≥ 0, most of them 0."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(num_rows, num_latents, generator=generator, dtype=torch.float64) + 0.1
    return size * (torch.rand(num_rows, num_latents, generator=generator) < share)


def topk(dense):
    """Values and indices [rows, k] with padding, as an encoder gives them."""
    k = max(1, int((dense > 0).sum(1).max())) if len(dense) else 1
    return dense.topk(k, dim=1)


def pairs_of(a, b, *, block=64, **settings):
    made = LatentPairs(a.shape[1], b.shape[1], **settings)
    for some_a, some_b in zip(a.split(block), b.split(block), strict=True):
        made.update(*topk(some_a), *topk(some_b))
    return made


def matched(a, b, **settings):
    return match_latents(candidates(pairs_of(a, b), **settings))


def test_sparse_is_dense_pearson() -> None:
    a, b = sparse_latents(500, 12, seed=1), sparse_latents(500, 9, seed=2)
    b[:, 3] += a[:, 5]
    wanted = np.corrcoef(a.numpy().T, b.numpy().T)[:12, 12:]

    in_a, in_b = np.divmod(np.arange(12 * 9), 9)
    found = pairs_of(a, b).correlations(in_a, in_b)

    assert np.abs(found - wanted.ravel()).max() < 1e-12


def test_a_planted_permutation_is_found() -> None:
    a = sparse_latents(4000, 50, seed=1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    noise = sparse_latents(4000, 50, seed=4, share=0.02)
    b = (3 * a + 0.2 * (a > 0) * torch.rand(a.shape) + noise)[:, order]

    found = matched(a, b, per_latent=None)

    assert np.array_equal(order.numpy()[found.partners], np.arange(50))
    summary = found.summary()
    assert summary["exact"] == 1
    assert summary["matched_share_above_0.7"] == 1
    assert summary["overstated"] == pytest.approx(0)
    dense = np.corrcoef(a.numpy().T, b.numpy().T)[:50, 50:]
    assert summary["one_sided_mean"] == pytest.approx(dense.max(1).mean(), abs=1e-12)


def test_a_mixture_of_two_latents_counts_once() -> None:
    a = sparse_latents(2000, 2, seed=1)
    b = torch.stack([a[:, 0] + a[:, 1], sparse_latents(2000, 1, seed=2)[:, 0]], dim=1)

    found = matched(a, b)
    summary = found.summary()

    assert found.best_partners.tolist() == [0, 0]
    assert sorted(found.partners.tolist()) in ([-1, 0], [0, 1])
    assert summary["num_best_partners"] == 1
    assert summary["one_sided_mean"] > 0.6
    assert summary["matched_mean"] < 0.4
    assert summary["overstated"] == pytest.approx(found.best.mean() - found.matched.mean())


def test_means_by_firing_worked_by_hand() -> None:
    # Latent 0 fires in 3 rows of 6 and is copied; latent 1 fires in 1 row and has no partner.
    a = torch.tensor([[1.0, 0], [2, 0], [1, 0], [0, 1], [0, 0], [0, 0]])
    summary = matched(a, a[:, :1], min_firings=1).summary()
    assert summary["matched_mean"] == pytest.approx(0.5)
    assert summary["matched_mean_by_firing"] == pytest.approx(3 / 4)
    assert summary["matched_share_above_0.5"] == 0.5
    assert summary["num_matched"] == 1


def test_latents_that_seldom_or_always_fire_are_left_out_and_counted() -> None:
    a = sparse_latents(300, 5, seed=1)
    a[:, 0] = 0
    a[:, 1] = 0.1
    a[:, 2] = 0
    a[7, 2] = 1.0
    found = matched(a, a, min_firings=2)
    assert found.left_out == (3, 3)
    assert found.usable.tolist() == [False, False, False, True, True]
    assert found.partners.tolist() == [-1, -1, -1, 3, 4]
    assert math.isnan(found.best[0])


def test_equal_latents_are_each_used_once() -> None:
    a = sparse_latents(300, 1, seed=1).expand(300, 4).contiguous()
    found = matched(a, a)
    assert sorted(found.partners.tolist()) == [0, 1, 2, 3]
    assert found.summary()["num_best_partners"] == 1
    assert found.summary()["overstated"] == pytest.approx(0, abs=1e-12)


def test_few_candidates_are_said_to_be_approximate() -> None:
    a, b = sparse_latents(400, 30, seed=1), sparse_latents(400, 30, seed=2)
    full, few = (matched(a, b, per_latent=most) for most in (None, 1))
    assert (full.exact, few.exact) == (True, False)
    assert few.num_dropped > 0
    assert np.array_equal(full.best, few.best)
    assert few.matched.sum() <= full.matched.sum() + 1e-9


def test_merge_without_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_pairs, "_CHUNK_PRODUCTS", 50)
    a, b = sparse_latents(300, 8, seed=1), sparse_latents(300, 6, seed=2)
    first, second = pairs_of(a[:100], b[:100]), pairs_of(a[100:], b[100:])
    merged = LatentPairs.from_dict(json.loads(json.dumps(first.to_dict())))
    merged.merge(second)
    whole = pairs_of(a, b, block=300)
    assert np.abs((merged.products - whole.products).toarray()).max() < 1e-12
    assert np.array_equal(merged.a.firings, (a > 0).sum(0).numpy())
    left = merged.without(second)
    in_a, in_b = np.divmod(np.arange(48), 6)
    assert left.num_rows == 100
    assert left.correlations(in_a, in_b) == pytest.approx(first.correlations(in_a, in_b))
    with pytest.raises(ValueError, match=r"cannot merge \(6, 6\)"):
        first.merge(LatentPairs(6, 6))


def test_pruning_keeps_the_strong_pairs_and_is_counted() -> None:
    a = sparse_latents(3000, 20, seed=1)
    pruned = pairs_of(a, a, max_pairs=80)
    assert pruned.products.nnz <= 80
    assert pruned.num_pruned > 0
    found = match_latents(candidates(pruned))
    assert np.array_equal(found.partners, np.arange(20))
    assert found.matched == pytest.approx(np.ones(20))
    assert not found.exact
    with pytest.raises(ValueError, match="raise max_pairs"):
        pruned.without(pruned)


def test_partners_are_scored_on_other_rows() -> None:
    # Unrelated latents that fire seldom: the best of many is chance, and is gone on new rows.
    a, b = (
        sparse_latents(2000, 60, seed=1, share=0.01),
        sparse_latents(2000, 60, seed=2, share=0.01),
    )
    chosen = match_latents(candidates(pairs_of(a[:1000], b[:1000]), min_firings=3))
    other = rescored(chosen, pairs_of(a[1000:], b[1000:]))
    assert chosen.summary()["matched_mean"] > 0.08
    assert abs(other.summary()["matched_mean"]) < 0.02
    assert np.array_equal(other.partners, chosen.partners)

    blocks = [pairs_of(x, y) for x, y in zip(a[1000:].split(100), b[1000:].split(100), strict=True)]
    interval = jackknife(blocks, lambda sums: rescored(chosen, sums).summary()["matched_mean"])
    assert interval.low < 0 < interval.high
    assert interval.estimate == pytest.approx(other.summary()["matched_mean"])


def test_one_row_and_no_rows() -> None:
    one = pairs_of(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0]]))
    found = match_latents(candidates(one, min_firings=1))
    assert found.left_out == (2, 1)
    assert math.isnan(found.summary()["matched_mean"])
    with pytest.raises(ValueError, match="no rows were seen"):
        candidates(LatentPairs(2, 2))
    empty = LatentPairs(2, 2)
    empty.update(*[torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.int32)] * 2)
    assert empty.num_rows == 0


def test_bad_rows_are_refused() -> None:
    good = (torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.int32))
    pairs = LatentPairs(2, 2)
    with pytest.raises(NonFiniteError, match="values of b"):
        pairs.update(*good, torch.tensor([[1.0], [math.nan]]), good[1])
    with pytest.raises(ValueError, match="indices of a run from 2 to 2"):
        pairs.update(good[0], good[1] + 2, *good)
    with pytest.raises(ValueError, match=r"a has the activation -1\.0"):
        pairs.update(-good[0], good[1], *good)
    with pytest.raises(ValueError, match="a has 2 rows and b 1"):
        pairs.update(*good, good[0][:1], good[1][:1])
    with pytest.raises(ValueError, match=r"wanted both as \[rows, k\]"):
        pairs.update(good[0][:, 0], good[1], *good)
    with pytest.raises(ValueError, match="max_pairs at least 4"):
        LatentPairs(2, 2, max_pairs=3)
    with pytest.raises(ValueError, match="min_firings 0"):
        candidates(pairs, min_firings=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_of_a_dictionary_match_those_of_a_reordered_copy(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (
        topk_autoencoder(d_in=16, num_latents=40, k=4, dtype=torch.float32) for _ in range(2)
    )
    order = torch.randperm(40, generator=generator)
    with torch.no_grad():
        first.W_enc.normal_(generator=generator)
        second.W_enc.copy_(first.W_enc[order])
        x = torch.randn(2000, 16, generator=generator)
        one, other = first.encode(x), second.encode(x)
    pairs = LatentPairs(40, 40)
    pairs.update(one.values.to(dtype), one.indices, other.values.to(dtype), other.indices)
    found = match_latents(candidates(pairs))
    assert torch.equal(order[torch.from_numpy(found.partners)], torch.arange(40))
    assert found.summary()["matched_mean"] == pytest.approx(1, abs=1e-3)
