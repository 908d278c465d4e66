import json
import math

import numpy as np
import pytest
import torch

from bathyscope.errors import NonFiniteError
from bathyscope.metrics import splice
from bathyscope.metrics.bootstrap import bootstrap_statistic
from bathyscope.metrics.splice import (
    TokenLosses,
    delta_ce,
    loss_recovered,
    next_tokens,
    recovered_from_sums,
)

LN2 = math.log(2)


def probabilities(rows):
    return torch.tensor(rows, dtype=torch.float64).log().float()


def hand_worked():
    # Two items of two positions over three tokens.
    clean = probabilities([[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], [[0.5, 0.25, 0.25]] * 2])
    other = probabilities([[[0.25, 0.25, 0.5], [0.25, 0.5, 0.25]], [[0.25, 0.5, 0.25]] * 2])
    batch = {
        "clean_logits": clean + 3.0,
        "targets": torch.tensor([[0, 1], [0, 2]]),
        "keep": torch.tensor([[True, True], [True, False]]),
        "documents": torch.tensor([70, 7]),
    }
    return batch, other - 5.0


def both_variants():
    batch, other = hand_worked()
    losses = TokenLosses()
    losses.update("clean", logits=batch["clean_logits"], **batch)
    losses.update("spliced", logits=other, **batch)
    return losses


def test_losses_worked_by_hand():
    found = both_variants().results()

    clean, spliced = found["clean"], found["spliced"]
    assert clean.documents.tolist() == [7, 70]
    assert clean.num_tokens.tolist() == [1, 2]
    # Document 7 keeps one position: CE = ln 2. Document 70: ln 2 twice.
    assert clean.ce_sums == pytest.approx([LN2, 2 * LN2], abs=1e-6)
    assert clean.kl_sums.tolist() == [0, 0]
    # Document 70: target 0 has 1/4, then 1/2. Document 7: target 0 has 1/4.
    assert spliced.ce_sums == pytest.approx([2 * LN2, 3 * LN2], abs=1e-6)
    # KL(½,¼,¼ ‖ ¼,¼,½) = ½ ln 2 - ¼ ln 2 = ¼ ln 2, and the same for (¼,½,¼).
    assert spliced.kl_sums == pytest.approx([LN2 / 4, LN2 / 4], abs=1e-6)
    assert delta_ce(clean, spliced) == pytest.approx(2 * LN2 / 3, abs=1e-6)
    assert spliced.mean_kl() == pytest.approx(LN2 / 6, abs=1e-6)


def test_blocks_of_rows_do_not_change_the_sums(monkeypatch):
    whole = both_variants().to_dict()
    monkeypatch.setattr(splice, "_BLOCK_ELEMENTS", 4)

    assert both_variants().to_dict() == whole


def test_a_position_out_of_the_mask_changes_nothing():
    batch, other = hand_worked()
    other[1, 1] = float("nan")
    batch["targets"][1, 1] = -100
    losses = TokenLosses()
    losses.update("clean", logits=batch["clean_logits"], **batch)
    losses.update("spliced", logits=other, **batch)

    assert losses.to_dict() == both_variants().to_dict()


def test_packed_items_split_their_tokens_among_documents():
    batch, other = hand_worked()
    batch["documents"] = torch.tensor([[1, 2], [2, 2]])
    losses = TokenLosses()
    losses.update("spliced", logits=other, **batch)

    found = losses.results()["spliced"]
    assert found.documents.tolist() == [1, 2]
    assert found.num_tokens.tolist() == [1, 2]
    assert found.ce_sums == pytest.approx([2 * LN2, 3 * LN2], abs=1e-6)


def test_targets_are_the_next_tokens_and_the_last_position_has_none():
    keep = torch.tensor([[True, False, True]])
    targets, kept = next_tokens(torch.tensor([[5, 6, 7]]), keep)

    assert targets[:, :2].tolist() == [[6, 7]]
    assert kept.tolist() == [[True, False, False]]
    assert keep.tolist() == [[True, False, True]]


def test_documents_add_up_over_batches_merges_and_json():
    whole = both_variants()
    batch, other = hand_worked()
    parts = []
    for item in (0, 1):
        rows = {name: tensor[item : item + 1] for name, tensor in batch.items()}
        part = TokenLosses()
        part.update("clean", logits=rows["clean_logits"], **rows)
        part.update("spliced", logits=other[item : item + 1], **rows)
        parts.append(TokenLosses.from_dict(json.loads(json.dumps(part.to_dict()))))
    parts[1].merge(parts[0])

    assert parts[1].to_dict() == whole.to_dict()
    parts[1].merge(whole)
    assert parts[1].results()["clean"].num_tokens.tolist() == [2, 4]
    assert whole.results()["clean"].num_tokens.tolist() == [1, 2]


def test_against_float64_on_a_wide_vocabulary():
    generator = torch.Generator().manual_seed(0)
    clean, other = (3 * torch.randn(2, 5, 1001, generator=generator) for _ in range(2))
    targets = torch.randint(1001, (2, 5), generator=generator)
    keep = torch.ones(2, 5, dtype=torch.bool)
    losses = TokenLosses()
    batch = {"targets": targets, "keep": keep, "documents": torch.tensor([0, 1])}
    losses.update("zero", logits=other, clean_logits=clean, **batch)

    log_p, log_q = clean.double().log_softmax(-1), other.double().log_softmax(-1)
    ce = -log_q.gather(-1, targets[..., None])[..., 0].sum(1)
    kl = (log_p.exp() * (log_p - log_q)).sum((1, 2))
    found = losses.results()["zero"]
    assert found.ce_sums == pytest.approx(ce.numpy(), rel=1e-6)
    assert found.kl_sums == pytest.approx(kl.numpy(), rel=1e-6)


def test_tokens_of_probability_zero_add_nothing():
    batch, other = hand_worked()
    batch["clean_logits"][..., 2] = float("-inf")
    other[..., 2] = float("-inf")
    losses = TokenLosses()
    losses.update("spliced", logits=other, **batch)

    # Of document 7: KL(⅔,⅓ ‖ ⅓,⅔) = ⅓ ln 2.
    assert losses.results()["spliced"].kl_sums[0] == pytest.approx(LN2 / 3, abs=1e-6)


def test_infinite_losses_are_refused_and_change_nothing():
    batch, other = hand_worked()
    losses = both_variants()
    before = losses.to_dict()
    unseen = other.clone()
    unseen[0, 0, 1] = float("-inf")
    with pytest.raises(NonFiniteError, match="KL of variant 'mean'"):
        losses.update("mean", logits=unseen, **batch)
    unseen[0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="cross entropy of variant 'mean'"):
        losses.update("mean", logits=unseen, **batch)

    assert losses.to_dict() == before


def test_variants_over_different_tokens_cannot_be_compared():
    losses = both_variants()
    batch, other = hand_worked()
    batch["keep"][0, 0] = False
    losses.update("zero", logits=other, **batch)

    with pytest.raises(ValueError, match="'zero' counted 2 tokens of 2 documents, 'clean' 3 of 2"):
        losses.results()


def test_nothing_counted_is_said():
    batch, other = hand_worked()
    batch["keep"][:] = False
    losses = TokenLosses()
    losses.update("zero", logits=other, **batch)

    with pytest.raises(ValueError, match="no token was counted"):
        losses.results()
    assert losses.to_dict() == {}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("targets", torch.tensor([[0, 3], [0, 0]]), "1 counted targets lie outside"),
        ("targets", torch.tensor([[0, 3]]), "wanted .2, 2. for both"),
        ("keep", torch.ones(2, 2), "keep as bool"),
        ("documents", torch.zeros(3, dtype=torch.int64), "documents are"),
        ("clean_logits", torch.zeros(2, 2, 4), "wanted both as"),
    ],
)
def test_wrong_batches_are_refused(name, value, message):
    batch, other = hand_worked()
    batch[name] = value
    with pytest.raises(ValueError, match=message):
        TokenLosses().update("zero", logits=other, **batch)


def test_loss_recovered_by_hand():
    assert loss_recovered(3.0, 3.5, 5.0, baseline="zero") == (0.75, "zero", "")
    assert loss_recovered(3.0, 6.0, 5.0, baseline="mean").value == -0.5


@pytest.mark.parametrize("ablated", [3.0, 3.0005, 2.0])
def test_loss_recovered_needs_a_gap(ablated):
    found = loss_recovered(3.0, 3.5, ablated, baseline="mean")

    assert math.isnan(found.value)
    assert "mean ablation changes the loss by" in found.reason


def test_loss_recovered_goes_through_the_bootstrap():
    # Per document: tokens, clean, spliced, ablated sums; every document recovers 3/4.
    tokens = np.array([2.0, 5.0, 11.0])
    columns = np.stack([tokens, 3 * tokens, 3.5 * tokens, 5 * tokens], axis=1)

    found = bootstrap_statistic(columns, recovered_from_sums, resamples=20, seed=0)

    assert (found.estimate, found.low, found.high) == (0.75, 0.75, 0.75)
