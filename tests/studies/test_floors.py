"""Shuffled orders, token floors and partial matches against dense formulas."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from bathyscope.errors import NonFiniteError
from bathyscope.studies import floors
from bathyscope.studies.floors import (
    kept_share,
    permute_documents,
    permute_rows,
    token_candidates,
    token_correlations,
    token_floor,
)
from bathyscope.studies.latent_pairs import LatentPairs
from bathyscope.studies.matching import candidates, match_latents
from bathyscope.studies.partial import partial_candidates, partial_correlations
from bathyscope.studies.token_sums import TokenSums

NUM_TOKENS = 40


def tokens_of(num_rows, *, seed, num_tokens=NUM_TOKENS):
    return torch.randint(num_tokens, (num_rows,), generator=torch.Generator().manual_seed(seed))


def noise(num_rows, num_latents, *, seed, share=0.2):
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(num_rows, num_latents, generator=generator, dtype=torch.float64)
    return size * (torch.rand(num_rows, num_latents, generator=generator) < share)


def topk(dense):
    return dense.topk(max(1, int((dense > 0).sum(1).max())), dim=1)


def token_sums(tokens, dense, *, block=100, num_tokens=NUM_TOKENS):
    made = TokenSums(num_tokens, dense.shape[1])
    for some, rows in zip(tokens.split(block), dense.split(block), strict=True):
        made.update(some, *topk(rows))
    return made


def pairs_of(a, b):
    made = LatentPairs(a.shape[1], b.shape[1])
    made.update(*topk(a), *topk(b))
    return made


def of_token(tokens, num_latents, *, seed):
    """Latents that are functions of the token."""
    return noise(NUM_TOKENS, num_latents, seed=seed)[tokens]


def dense_prediction(train_tokens, train, tokens):
    found = train.mean(0).expand(len(tokens), -1).clone()
    for token in train_tokens.unique():
        found[tokens == token] = train[train_tokens == token].mean(0)
    return found


def correlations(a, b):
    """Pearson of all columns [a, b]."""
    return np.corrcoef(a.numpy().T, b.numpy().T)[: a.shape[1], a.shape[1] :]


def test_a_function_of_the_token_has_floor_one_and_one_independent_of_it_zero() -> None:
    train_tokens, tokens = tokens_of(20_000, seed=1), tokens_of(8000, seed=2)
    train, held_out = (
        torch.cat([of_token(some, 3, seed=9), noise(len(some), 3, seed=len(some))], 1)
        for some in (train_tokens, tokens)
    )
    found = token_floor(token_sums(train_tokens, train), token_sums(tokens, held_out))
    assert found.correlations[:3] == pytest.approx(np.ones(3), abs=1e-12)
    assert np.abs(found.correlations[3:]).max() < 0.04
    summary = found.summary()
    assert summary["token_floor_share_above_0.7"] == 0.5
    assert (summary["unseen_share"], summary["left_out"]) == (0, 0)


def test_sums_give_the_dense_correlations_also_with_unseen_tokens() -> None:
    # Training rows know half of the tokens only.
    train_tokens, tokens = tokens_of(600, seed=1, num_tokens=20), tokens_of(500, seed=2)
    a_train, a = (of_token(t, 6, seed=9) + noise(len(t), 6, seed=3) for t in (train_tokens, tokens))
    b = 0.5 * of_token(tokens, 5, seed=8) + noise(500, 5, seed=4)
    train, held_a, held_b = (
        token_sums(train_tokens, a_train), token_sums(tokens, a), token_sums(tokens, b),
    )  # fmt: skip
    predicted = dense_prediction(train_tokens, a_train, tokens)

    found = token_floor(train, held_a)
    assert found.unseen_share == float((tokens >= 20).double().mean())
    assert found.correlations == pytest.approx(np.diag(correlations(predicted, a)), abs=1e-12)

    in_a, in_b = np.divmod(np.arange(30), 5)
    across = token_correlations(train, held_b, in_a, in_b)
    wanted = correlations(predicted, b)
    assert across == pytest.approx(wanted.ravel(), abs=1e-12)

    match = match_latents(token_candidates(train, held_b))
    assert match.best == pytest.approx(wanted.max(1), abs=1e-12)


def test_chunks_of_latents_give_the_same_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = tokens_of(500, seed=2)
    a, b = token_sums(tokens, noise(500, 30, seed=3)), token_sums(tokens, noise(500, 20, seed=4))
    whole = token_candidates(a, b)
    monkeypatch.setattr(floors, "_CHUNK_PRODUCTS", 500)
    some = token_candidates(a, b)
    assert np.array_equal(whole.in_a, some.in_a)
    assert np.array_equal(whole.in_b, some.in_b)
    assert whole.num_dropped == some.num_dropped


def test_a_partial_match_sees_only_what_the_token_leaves() -> None:
    tokens = tokens_of(4000, seed=1)
    known, shared = of_token(tokens, 2, seed=9), noise(4000, 2, seed=3)
    # Latents 0 and 1: functions of the token; 2 and 3: shared; 4 and 5: token plus own noise.
    a = torch.cat([known, shared, known + noise(4000, 2, seed=5)], 1)
    b = torch.cat([known, shared, known + noise(4000, 2, seed=6)], 1)
    pairs, sums_a, sums_b = pairs_of(a, b), token_sums(tokens, a), token_sums(tokens, b)

    plain = match_latents(candidates(pairs, per_latent=None))
    partial = match_latents(partial_candidates(pairs, sums_a, sums_b, per_latent=None))

    assert plain.matched[:4] == pytest.approx(np.ones(4))
    assert plain.matched[4:].min() > 0.25
    assert partial.left_out == (2, 2)
    assert partial.matched[2:4] == pytest.approx(np.ones(2))
    assert np.abs(partial.matched[4:]).max() < 0.06
    assert partial.exact

    few = partial_candidates(pairs, sums_a, sums_b, among=candidates(pairs, per_latent=1))
    assert few.num_dropped > 0
    assert not match_latents(few).exact


def test_partial_correlations_are_those_of_the_residuals() -> None:
    tokens = tokens_of(300, seed=1)
    a, b = of_token(tokens, 4, seed=9) + noise(300, 4, seed=2), noise(300, 3, seed=3)
    b[:, 0] += a[:, 1]
    left_a, left_b = (x - dense_prediction(tokens, x, tokens) for x in (a, b))
    in_a, in_b = np.divmod(np.arange(12), 3)
    found = partial_correlations(
        pairs_of(a, b), token_sums(tokens, a), token_sums(tokens, b), in_a, in_b
    )
    assert found == pytest.approx(correlations(left_a, left_b).ravel(), abs=1e-12)


def test_sums_of_other_rows_are_refused() -> None:
    tokens, x = tokens_of(50, seed=1), noise(50, 3, seed=2)
    pairs, sums = pairs_of(x, x), token_sums(tokens, x)
    with pytest.raises(ValueError, match="pairs of 50 rows, tokens of 50 and 40"):
        partial_candidates(pairs, sums, token_sums(tokens[:40], x[:40]))
    with pytest.raises(ValueError, match="one vocabulary and one dictionary"):
        token_floor(sums, token_sums(tokens, x[:, :2]))
    with pytest.raises(ValueError, match="50 training and 0 held-out rows"):
        token_floor(sums, TokenSums(NUM_TOKENS, 3))


def test_latents_that_never_fire_are_left_out_and_one_never_seen_in_training_has_floor_zero() -> (
    None
):
    tokens = tokens_of(200, seed=1)
    x = noise(200, 3, seed=2)
    x[:, 0] = 0
    train = x.clone()
    train[:, 1] = 0
    found = token_floor(token_sums(tokens, train), token_sums(tokens, x))
    assert found.num_left_out == 1
    assert math.isnan(found.correlations[0])
    assert found.correlations[1] == 0


def test_merge_and_json() -> None:
    tokens, x = tokens_of(100, seed=1), noise(100, 4, seed=2)
    merged = TokenSums.from_dict(json.loads(json.dumps(token_sums(tokens[:30], x[:30]).to_dict())))
    merged.merge(token_sums(tokens[30:], x[30:]))
    whole = token_sums(tokens, x)
    assert np.abs((merged.sums - whole.sums).toarray()).max() < 1e-12
    assert np.array_equal(merged.rows, whole.rows)
    assert merged.side.squares == pytest.approx(x.square().sum(0).numpy())
    assert merged.num_rows == 100
    with pytest.raises(ValueError, match="cannot merge"):
        merged.merge(TokenSums(NUM_TOKENS, 5))


def test_bad_rows_are_refused() -> None:
    sums = TokenSums(3, 2)
    one = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(ValueError, match="tokens run from 3 to 3: wanted 0 to 2"):
        sums.update(torch.tensor([3]), *one)
    with pytest.raises(ValueError, match=r"tokens are \[2\]: wanted one per row, 1"):
        sums.update(torch.tensor([1, 2]), *one)
    with pytest.raises(NonFiniteError):
        sums.update(torch.tensor([1]), torch.tensor([[math.nan]]), one[1])
    with pytest.raises(ValueError, match="0 tokens and 2 latents"):
        TokenSums(0, 2)


def test_orders_are_seeded_permutations() -> None:
    order = permute_rows(100, seed=1)
    assert sorted(order.tolist()) == list(range(100))
    assert torch.equal(order, permute_rows(100, seed=1))
    assert not torch.equal(order, permute_rows(100, seed=2))
    with pytest.raises(ValueError, match="1 rows"):
        permute_rows(1, seed=0)


def test_documents_change_place_whole() -> None:
    documents = torch.arange(20).repeat_interleave(5)
    order = permute_documents(documents, seed=3)
    moved = documents[order].view(20, 5)
    assert sorted(order.tolist()) == list(range(100))
    assert (moved == moved[:, :1]).all()
    assert torch.equal(order.view(20, 5)[:, 0] % 5, torch.zeros(20, dtype=torch.int64))
    assert kept_share(documents, order) == 0
    uneven = torch.tensor([7, 7, 7, 2, 4, 4])
    assert sorted(permute_documents(uneven, seed=0).tolist()) == list(range(6))


@pytest.mark.parametrize("documents", [[], [1], [1, 1], [1, 2, 1]])
def test_documents_that_cannot_be_shuffled(documents: list[int]) -> None:
    with pytest.raises(ValueError, match="wanted at least 2 documents, each with its rows"):
        permute_documents(torch.tensor(documents), seed=0)


def test_a_shuffled_match_is_gone() -> None:
    a = noise(3000, 10, seed=1)
    order = permute_rows(3000, seed=1)
    found = match_latents(candidates(pairs_of(a, a[order])))
    assert found.best.max() < 0.1
