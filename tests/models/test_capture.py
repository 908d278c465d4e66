"""Captured tensors are what the model computed, and the forward ends when they are seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.errors import HookPointError
from bathyscope.models.capture import Capture, capture
from bathyscope.models.hook_points import HookPoint

FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma2"]


def hooks_left(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_stream_equals_hidden_states(
    family: str, folders: dict[str, Path], plain: Any, ids: Tensor
) -> None:
    model = plain(folders[family])
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
    layers = range(model.config.num_hidden_layers)
    names = [f"{kind}.{layer}" for kind in ("resid_pre", "resid_post") for layer in layers]
    seen = capture(model, names, ids)
    assert list(seen) == names
    for layer in layers:
        assert torch.equal(seen[f"resid_pre.{layer}"], hidden[layer])
        # The last hidden state of transformers is after the final norm.
        if layer + 1 < len(layers):
            assert torch.equal(seen[f"resid_post.{layer}"], hidden[layer + 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_a_block_add_up(
    family: str, folders: dict[str, Path], plain: Any, ids: Tensor
) -> None:
    model = plain(folders[family])
    parallel = family == "gpt_neox"
    kinds = ["resid_pre", "attn_out", "mlp_in", "mlp_out", "resid_post"]
    names = [f"{kind}.1" for kind in kinds] + ([] if parallel else ["resid_mid.1"])
    seen = {name.split(".")[0]: tensor for name, tensor in capture(model, names, ids).items()}
    assert all(tensor.shape == (2, 9, 32) for tensor in seen.values())
    added = seen["mlp_out"]
    if family == "gemma2":
        added = model.model.layers[1].post_feedforward_layernorm(added)
    if parallel:
        total = seen["resid_pre"] + seen["attn_out"] + added
    else:
        assert torch.equal(seen["resid_mid"], seen["resid_pre"] + seen["attn_out"])
        total = seen["resid_mid"] + added
    torch.testing.assert_close(seen["resid_post"], total, rtol=0, atol=1e-6)
    mlp = model.get_submodule({"gpt2": "transformer.h.1.mlp", "gpt_neox": "gpt_neox.layers.1.mlp"}
                              .get(family, "model.layers.1.mlp"))  # fmt: skip
    assert torch.equal(mlp(seen["mlp_in"]), seen["mlp_out"])


def test_input_given_by_keyword(llama_folder: Path, plain: Any, ids: Tensor) -> None:
    model = plain(llama_folder)
    names = ["model.layers.2.self_attn:in", "model.layers.2.input_layernorm"]
    seen = capture(model, names, ids)
    assert torch.equal(*seen.values())


def test_forward_ends_at_the_last_point(llama_folder: Path, plain: Any, ids: Tensor) -> None:
    model, ran = plain(llama_folder), []
    watch = model.model.layers[2].register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        capture(model, ["resid_post.1", "mlp_out.0"], ids)
        assert not ran
        with Capture(model, ["resid_post.1"], stop=False) as run:
            run(ids)
        assert len(ran) == 1
    finally:
        watch.remove()


def test_several_batches_and_keyword_inputs(llama_folder: Path, plain: Any, ids: Tensor) -> None:
    model = plain(llama_folder)
    before = hooks_left(model)
    with Capture(model, ["resid_post.0"]) as run:
        whole = run({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["resid_post.0"]
        first = run(ids[:1])["resid_post.0"]
        one = run(ids[:, :1])["resid_post.0"]
    assert one.shape == (2, 1, 32)
    torch.testing.assert_close(first, whole[:1], rtol=0, atol=1e-6)
    assert not whole.requires_grad
    assert hooks_left(model) == before


def test_hooks_are_removed_after_an_error(llama_folder: Path, plain: Any) -> None:
    model = plain(llama_folder)
    # transformers keeps hooks of its own on a model once it has returned hidden states.
    before = hooks_left(model)
    with pytest.raises(IndexError):
        capture(model, ["resid_post.0"], torch.tensor([[10_000]]))
    absent = HookPoint("mlp.9", "mlp.9", "out", None)
    with pytest.raises(HookPointError, match="does not hold"):
        capture(model, ["resid_post.0", absent], torch.tensor([[5]]))
    assert hooks_left(model) == before


def test_a_point_that_is_never_reached() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(HookPointError, match="did not reach unused: Skips ran to its end"):
        capture(Skips(), ["used", "unused"], torch.ones(2, 4))


def test_a_module_that_runs_twice_is_ambiguous() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, shared, nn.ReLU())
    with pytest.raises(HookPointError, match="runs more than once"):
        capture(model, ["0", "2"], torch.ones(2, 4))


def test_change_in_place_is_noticed() -> None:
    model = nn.Sequential(nn.Identity(), nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True))
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.zero_()
    image = torch.tensor([[[[-2.0, 3.0]]]])
    with torch.inference_mode(), pytest.raises(HookPointError, match="changed in place"):
        capture(model, ["1", "2"], image)
    seen = capture(model, ["1", "2"], image, copy=True)
    assert seen["1"].flatten().tolist() == [-2.0, 3.0]
    assert seen["2"].flatten().tolist() == [0.0, 3.0]


def test_outputs_that_hold_no_tensor() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x}

    with pytest.raises(HookPointError, match="returns dict"):
        capture(nn.Sequential(Named()), ["0"], torch.ones(1))


@pytest.mark.parametrize("names", [[], ["0", "0"]])
def test_points_must_be_given_once(names: list[str]) -> None:
    with pytest.raises(HookPointError, match="one or more different"):
        Capture(nn.Sequential(nn.ReLU()), names)
