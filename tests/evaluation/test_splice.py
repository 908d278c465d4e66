"""Which positions a splice changes, which losses it counts, and two ways to run it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from bathyscope.evaluation.controls import Reconstruct
from bathyscope.evaluation.splice import Forward, Restart, Splice, add_batch, replace_kept
from bathyscope.evaluation.summary import summarise_splice
from bathyscope.metrics.splice import DocumentLosses, TokenLosses
from bathyscope.models.capture import capture
from bathyscope.models.hook_points import resolve
from bathyscope.models.load import load_model

VOCABULARY, WIDTH, ITEMS, LENGTH = 11, 6, 4, 8


class Linear(nn.Module):
    """Logits are a fixed linear map of the activations; it keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.unembedding = 2 * torch.randn(VOCABULARY, WIDTH, generator=generator)
        self.given: list[Tensor] = []

    def forward(self, tokens: Tensor, activations: Tensor) -> Tensor:
        self.given.append(activations.clone())
        return activations.float() @ self.unembedding.T


def batch(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Items of 8 tokens of which position 0 and one more are left out; documents 5, 5, 7, 9.

    Each token is what `Linear` finds most likely, so that ablations cost something.
    """
    generator = torch.Generator().manual_seed(1)
    activations = torch.randn(ITEMS, LENGTH, WIDTH, generator=generator)
    likely = (activations @ Linear().unembedding.T).argmax(-1)
    keep = torch.ones(ITEMS, LENGTH, dtype=torch.bool)
    keep[:, 0] = False
    keep[2, 4] = False
    return {
        "tokens": likely.roll(1, dims=1),
        "activations": activations.to(dtype),
        "keep": keep,
        "documents": torch.tensor([5, 5, 7, 9])[:, None].expand(ITEMS, LENGTH).contiguous(),
    }


def measured(
    forward: Forward, given: dict[str, Tensor], variants: dict[str, Reconstruct]
) -> dict[str, DocumentLosses]:
    losses = TokenLosses()
    add_batch(
        losses,
        forward,
        tokens=given["tokens"],
        activations=given["activations"],
        keep=given["keep"],
        documents=given["documents"],
        variants=variants,
    )
    return losses.results()


BASELINES: dict[str, Reconstruct] = {
    "zero": torch.zeros_like,
    "mean": lambda x: x.mean(0).expand_as(x),
}


def test_clean_costs_nothing_and_every_variant_counts_the_same_tokens() -> None:
    found = measured(Linear(), batch(), BASELINES)
    assert list(found) == ["clean", "zero", "mean"]
    assert not found["clean"].kl_sums.any()
    # 8 positions less position 0 and the last, which has no target; one more in document 7.
    for losses in found.values():
        assert losses.documents.tolist() == [5, 7, 9]
        assert losses.num_tokens.tolist() == [12, 5, 6]


def test_clean_loss_by_hand() -> None:
    model, given = Linear(), batch()
    found = measured(model, given, {})["clean"]
    log_p = torch.log_softmax(given["activations"] @ model.unembedding.T, dim=-1)
    wanted = -sum(
        float(log_p[2, p, given["tokens"][2, p + 1]]) for p in range(1, LENGTH - 1) if p != 4
    )
    assert found.ce_sums[1] == pytest.approx(wanted, rel=1e-5)


def test_a_perfect_reconstruction_changes_nothing() -> None:
    found = measured(Linear(), batch(), {"perfect": lambda x: x.clone(), **BASELINES})
    perfect = summarise_splice(found, resamples=50, seed=0)["perfect"]
    assert perfect["delta_ce"] == 0.0
    assert perfect["kl"] == pytest.approx(0.0, abs=1e-6)
    assert perfect["loss_recovered_zero"]["value"] == 1.0
    assert perfect["loss_recovered_mean"]["value"] == 1.0


def test_zero_logits_cost_the_log_of_the_vocabulary() -> None:
    found = measured(Linear(), batch(), BASELINES)
    assert found["zero"].mean_ce() == pytest.approx(float(torch.tensor(11.0).log()), rel=1e-6)
    results = summarise_splice(found, resamples=50, seed=0)
    assert results["zero"]["loss_recovered_zero"]["value"] == 0.0
    assert results["mean"]["loss_recovered_mean"]["value"] == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_that_are_left_out_stay_clean_to_the_bit(dtype: torch.dtype) -> None:
    model, given = Linear(), batch(dtype)
    measured(model, given, BASELINES)
    clean, zero, mean = model.given
    left_out = ~given["keep"]
    assert clean.dtype == dtype
    assert torch.equal(clean, given["activations"])
    for variant in (zero, mean):
        assert torch.equal(variant[left_out].to(dtype), given["activations"][left_out])
    assert not zero[given["keep"]].any()
    # The last position predicts nothing but is kept, so it is replaced like the others.
    assert not zero[:, -1].any()


def test_only_kept_rows_are_given_to_the_reconstruction() -> None:
    given, seen = batch(), []

    def reconstruct(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x + 1

    before = given["activations"].clone()
    replaced = replace_kept(given["activations"], given["keep"], reconstruct)
    keep = given["keep"]
    assert torch.equal(seen[0], before[keep])
    assert torch.equal(replaced[keep], before[keep] + 1)
    assert torch.equal(given["activations"], before)


def test_nothing_kept_counts_nothing() -> None:
    given = batch()
    given["keep"] = torch.zeros_like(given["keep"])
    with pytest.raises(ValueError, match="no token was counted"):
        measured(Linear(), given, {})


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = str(tmp_path_factory.mktemp("llama"))
    model.save_pretrained(folder)
    return folder


def test_restart_equals_splice(llama_folder: str) -> None:
    whole = load_model(llama_folder, dtype=torch.float32, attention="sdpa").model
    tail = load_model(llama_folder, dtype=torch.float32, layers=(2, 3), head=True).model
    tokens = torch.randint(64, (3, 9), generator=torch.Generator().manual_seed(2))
    point = resolve(whole, "resid_post.1")
    true = capture(whole, [point], tokens)["resid_post.1"]
    restarted, spliced = Restart(tail), Splice(whole, point)
    with torch.no_grad():
        wanted = whole(input_ids=tokens).logits
        torch.testing.assert_close(restarted(tokens, true), wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(spliced(tokens, true), wanted)
        changed = true * 0.5
        torch.testing.assert_close(
            restarted(tokens, changed), spliced(tokens, changed), rtol=1e-5, atol=1e-5
        )
        assert not torch.allclose(restarted(tokens, changed), wanted, atol=1e-2)


def test_both_ways_give_the_same_losses(llama_folder: str) -> None:
    whole = load_model(llama_folder, dtype=torch.float32).model
    tail = load_model(llama_folder, dtype=torch.float32, layers=(2, 3), head=True).model
    tokens = torch.randint(64, (3, 9), generator=torch.Generator().manual_seed(3))
    point = resolve(whole, "resid_post.1")
    keep = torch.ones(3, 9, dtype=torch.bool)
    keep[:, 0] = False
    given = {
        "tokens": tokens,
        "activations": capture(whole, [point], tokens)["resid_post.1"],
        "keep": keep,
        "documents": torch.arange(3),
    }
    one = measured(Restart(tail), given, BASELINES)
    other = measured(Splice(whole, point), given, BASELINES)
    for name, losses in one.items():
        assert losses.mean_ce() == pytest.approx(other[name].mean_ce(), rel=1e-5)
        assert losses.mean_kl() == pytest.approx(other[name].mean_kl(), rel=1e-4, abs=1e-6)
    assert one["zero"].mean_ce() != pytest.approx(one["clean"].mean_ce(), rel=1e-3)
