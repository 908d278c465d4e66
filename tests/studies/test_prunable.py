"""Every weight counted once and in its place, and matrices that are the maps they stand for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from bathyscope.errors import ModelError
from bathyscope.studies.prunable import PrunableWeight, prunable
from study_models import SIZES, convolutions, gpt2, llama, randomised


def by_path(model: nn.Module, path: str, **options: Any) -> PrunableWeight:
    return next(w for w in prunable(model, **options).weights if w.path == path)


@pytest.mark.parametrize("tied", [True, False])
def test_llama_counts_by_hand(tied: bool) -> None:
    model = llama(tie_word_embeddings=tied)
    found = prunable(model)
    # q and o 32 x 32, k and v 16 x 32, three maps of the MLP 32 x 48; three blocks.
    assert found.counts.prunable == 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48)
    assert found.counts.embedding == 64 * 32 * (1 if tied else 2)
    assert found.counts.other == 7 * 32
    assert found.counts.total == sum(p.numel() for p in model.parameters())
    assert found.left_out == ()
    assert len(found.weights) == 21
    assert [w.block for w in found.weights] == [0] * 7 + [1] * 7 + [2] * 7


def test_gpt2_counts_by_hand_and_turns_its_weights() -> None:
    model = gpt2()
    found = prunable(model)
    # 3d x d, d x d and twice 4d x d.
    assert found.counts.prunable == 2 * 12 * 16 * 16
    assert found.counts.embedding == 64 * 16 + 32 * 16
    assert found.counts.total == sum(p.numel() for p in model.parameters())
    weight = by_path(model, "transformer.h.1.mlp.c_fc")
    module = model.transformer.h[1].mlp.c_fc
    assert weight.shape == (64, 16)
    x = torch.randn(5, 16)
    torch.testing.assert_close(x @ weight.read().t() + module.bias, module(x))
    changed = torch.arange(64 * 16, dtype=torch.float32).view(64, 16)
    weight.write(changed)
    assert torch.equal(module.weight, changed.t())
    assert torch.equal(weight.read(), changed)
    assert weight.read().data_ptr() != module.weight.data_ptr()


def test_convolutions_are_matrices_of_patches() -> None:
    model = convolutions()
    found = {w.path: w for w in prunable(model).weights}
    shapes = {path: (w.shape, w.groups) for path, w in found.items()}
    assert shapes == {
        "plain": ((8, 27), 1),
        "grouped": ((12, 6), 4),
        "depthwise": ((12, 9), 12),
        "pointwise": ((6, 12), 1),
        "head": ((5, 6), 1),
    }
    before = model.grouped.weight.clone()
    found["grouped"].write(found["grouped"].read())
    assert torch.equal(model.grouped.weight, before)
    # Written where the memory of a convolution is laid out with channels last.
    model.to(memory_format=torch.channels_last)
    found["plain"].write(found["plain"].read() * 2)
    assert model.plain.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_named_head_is_counted_apart() -> None:
    found = prunable(convolutions(), heads=["head"])
    assert "head" not in [w.path for w in found.weights]
    assert found.counts.embedding == 6 * 5 + 5
    with pytest.raises(ModelError, match="fc, which Convolutions does not hold"):
        prunable(convolutions(), heads=["fc"])


def test_an_image_model_keeps_its_patches_and_classifier_apart() -> None:
    model = randomised(
        hf.ViTConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            image_size=16, patch_size=8,
        )
    )  # fmt: skip
    paths = [w.path for w in prunable(model).weights]
    assert len(paths) == 12
    assert not [p for p in paths if "embeddings" in p or "classifier" in p]


def test_joined_experts_are_named_as_left_out() -> None:
    model = randomised(hf.MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4))
    found = prunable(model)
    assert "model.layers.0.mlp.experts.down_proj" in found.left_out
    assert found.counts.total == sum(p.numel() for p in model.parameters())


def test_a_shared_weight_is_counted_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    found = prunable(nn.Sequential(first, second))
    assert [w.path for w in found.weights] == ["0"]
    assert found.counts == (0, 16, 8)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))


def test_weights_that_cannot_be_changed_are_refused() -> None:
    with pytest.raises(ModelError, match="meta device"):
        prunable(nn.Sequential(nn.Linear(4, 4, device="meta")))
    with pytest.raises(ModelError, match="made anew in each forward"):
        prunable(nn.Sequential(weight_norm(nn.Linear(4, 4))))
    with pytest.raises(ModelError, match="quantised weights, for instance in '0'"):
        prunable(nn.Sequential(Packed(), nn.Linear(4, 4)))
    eight = nn.Linear(4, 4).requires_grad_(False)
    eight.weight = nn.Parameter(eight.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ModelError, match=r"Tensor of torch\.float8_e4m3fn"):
        prunable(nn.Sequential(eight))
    with pytest.raises(ModelError, match="no weight to remove"):
        prunable(nn.Sequential(nn.Embedding(4, 4)))
