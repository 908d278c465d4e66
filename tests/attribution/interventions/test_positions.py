"""Interventions are made at the positions that were asked for, and at no others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bathyscope.attribution.interventions.changes import Resample, Scale, Steer, Zero
from bathyscope.attribution.interventions.intervention import (
    AtHookPoint,
    AttentionHeads,
    Intervention,
    Latents,
    Positions,
)
from bathyscope.attribution.interventions.splice import intervened
from bathyscope.errors import ConfigError, HookPointError
from bathyscope.models.capture import capture
from decoders import decoder, random_dictionary


def stack() -> nn.Module:
    return nn.Sequential(nn.Identity())


@pytest.mark.parametrize(
    ("positions", "wanted"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("prompt", [0, 1, 2, 3]),
        ("generated", [4, 5]),
        ((0, 5), [0, 5]),
        ((-1, -4), [0, 3]),
        ((17,), []),
    ],
)
def test_positions_of_a_forward(positions: Positions, wanted: list[int]) -> None:
    model, x = stack(), torch.ones(2, 6, 4)
    change = Intervention(AtHookPoint("0"), Zero(), positions)
    with intervened(model, [change], prompt_length=4):
        after = model(x)
    for item in after:
        assert [p for p in range(6) if not item[p].any()] == wanted


@pytest.mark.parametrize("target", ["latents", "heads", "module"])
def test_earlier_positions_see_nothing_of_a_change(target: str) -> None:
    model = decoder("llama")
    tokens = torch.randint(3, 128, (1, 9), generator=torch.Generator().manual_seed(4))
    dictionary = random_dictionary("autoencoder", ["resid_post.1"])
    change = {
        "latents": Intervention(Latents(dictionary, (2,)), Steer(4.0), (5,)),
        "heads": Intervention(AttentionHeads(1, (0, 1)), Zero(), (5,)),
        "module": Intervention(AtHookPoint("mlp_out.1"), Scale(3.0), (5,)),
    }[target]
    with torch.no_grad():
        clean = model(tokens).logits
        with intervened(model, [change]):
            changed = model(tokens).logits
    differs = (clean != changed).any(-1)[0].tolist()
    assert differs == [False] * 5 + [True] * 4


def test_a_cache_moves_the_positions_on() -> None:
    """The newest position alone is computed, and is number 9."""
    model = decoder("llama")
    tokens = torch.randint(3, 128, (1, 10), generator=torch.Generator().manual_seed(4))
    change = Intervention(AtHookPoint("mlp_out.1"), Zero(), "generated")
    with torch.no_grad(), intervened(model, [change], prompt_length=9):
        whole = model(tokens, use_cache=False).logits
        begun = model(tokens[:, :9], use_cache=True)
        seen = capture(
            model,
            ["mlp_out.1"],
            {"input_ids": tokens[:, 9:], "past_key_values": begun.past_key_values},
        )
        assert not bool(seen["mlp_out.1"].any())
    assert bool(whole.isfinite().all())


def test_only_kept_rows_change() -> None:
    model, x = stack(), torch.ones(2, 3, 4)
    keep = torch.tensor([[False, True, True], [True, False, True]])
    with intervened(model, [Intervention(AtHookPoint("0"), Zero())], keep=keep):
        assert torch.equal(model(x).any(-1), ~keep)


def test_rows_without_a_batch_axis_are_counted_by_item() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            rows: Tensor = self.inner(x.flatten(0, 1))
            return rows.reshape(x.shape)

    with intervened(model := Flat(), [Intervention(AtHookPoint("inner"), Zero(), (1,))]):
        assert model(torch.ones(2, 3, 4)).any(-1).tolist() == [[True, False, True]] * 2
    pooled = nn.Sequential(nn.Identity())
    with (
        intervened(pooled, [Intervention(AtHookPoint("0"), Zero())]),
        pytest.raises(HookPointError, match=r"gives \[2, 4, 5, 4\] for 2 items of 4 positions"),
    ):
        pooled(torch.ones(2, 4, 5, 4))


def test_resampled_rows_are_the_same_in_any_order_of_computing() -> None:
    given = torch.arange(7.0)[:, None].expand(7, 4)
    change = Intervention(AtHookPoint("0"), Resample(given, seed=5))
    with intervened(model := stack(), [change]):
        whole = model(torch.zeros(1, 20, 4))[0, :, 0]
    assert sorted(whole[:7].tolist()) == list(range(7))
    assert torch.equal(whole[:7], whole[7:14])
    assert not torch.equal(whole[:7], torch.arange(7.0))


def test_aligned_activations_are_put_where_they_come_from() -> None:
    """Activation patching: all of a layer's stream from another text gives that text's logits."""
    model = decoder("gpt2")
    tokens = torch.randint(3, 128, (2, 2, 9), generator=torch.Generator().manual_seed(4))
    other = capture(model, ["resid_post.0"], tokens[1])["resid_post.0"]
    change = Intervention(AtHookPoint("resid_post.0"), Resample(other))
    with torch.no_grad(), intervened(model, [change]):
        patched = model(tokens[0]).logits
    with torch.no_grad():
        assert torch.equal(patched, model(tokens[1]).logits)


def test_other_words_for_positions_are_refused() -> None:
    with pytest.raises(ConfigError, match="'last'; wanted one of all, prompt, generated"):
        Intervention(AtHookPoint("0"), Zero(), "last")  # type: ignore[arg-type]
