"""What does not fit is refused in plain words, before a forward runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from bathyscope.attribution.interventions.changes import (
    Clamp,
    Mean,
    Resample,
    Scale,
    Steer,
    Zero,
)
from bathyscope.attribution.interventions.checks import check_interventions, check_length
from bathyscope.attribution.interventions.effects import effect
from bathyscope.attribution.interventions.generation import Sampling
from bathyscope.attribution.interventions.intervention import (
    AtHookPoint,
    AttentionHeads,
    Intervention,
    Latents,
)
from bathyscope.attribution.interventions.splice import intervened
from bathyscope.errors import ConfigError, HookPointError, ModelError, NonFiniteError
from decoders import DECODERS, decoder, random_dictionary

SAE = random_dictionary("autoencoder", ["resid_post.1"])
NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("index", [24, -1])
def test_a_latent_beyond_the_dictionary(index: int) -> None:
    message = f"Latent {index} was asked for, but the dictionary 'main' has latents 0 to 23"
    with pytest.raises(ConfigError, match=message):
        Latents(SAE, (3, index), "main")


def test_a_crosscoder_is_refused_with_the_reason() -> None:
    crosscoder = random_dictionary("crosscoder", ["resid_post.0", "resid_post.1"])
    with pytest.raises(ConfigError, match=r"crosscoder: its latents are known only once all"):
        Latents(crosscoder, (3,))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Clamp(NAN),
        lambda: Scale(INFINITE),
        lambda: Steer(-INFINITE),
        lambda: Steer(1.0, torch.tensor([1.0, NAN])),
        lambda: Mean(torch.tensor([[INFINITE]])),
        lambda: Resample(torch.full((2, 3, 4), NAN)),
    ],
)
def test_values_that_are_not_finite(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"finite|NaN"):
        make()


@pytest.mark.parametrize("shape", [(4,), (0, 4), (1, 2, 3, 4)])
def test_activations_of_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"\[rows, d\] or \[items, positions, d\]"):
        Mean(torch.ones(shape))


@pytest.mark.parametrize(
    ("target", "change", "message"),
    [
        (AtHookPoint("mlp_out.1"), Clamp(1.0), "vector, which cannot be clamped"),
        (AttentionHeads(1, (0,)), Steer(1.0), "direction is wanted to steer head 1.0"),
        (Latents(SAE, (1,)), Steer(1.0, torch.ones(32)), "Leave the direction out"),
    ],
)
def test_changes_that_a_target_cannot_take(target: Any, change: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Intervention(target, change)


def llama() -> Any:
    return DECODERS["llama"]()


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (AttentionHeads(1, (4,)), HookPointError, "Head 4 of layer 1 .* heads 0 to 3"),
        (AttentionHeads(1, ()), HookPointError, "No head"),
        (AttentionHeads(7, (0,)), HookPointError, "asks for layer 7"),
        (AtHookPoint("resid_mid.1"), HookPointError, "can be read but not changed"),
        (AtHookPoint("mlp_outs.1"), HookPointError, "Near matches: mlp_out.1"),
        (
            Latents(random_dictionary("autoencoder", ["resid_post.9"]), (0,), "main"),
            HookPointError,
            "'main' belongs to the hook point 'resid_post.9', which this model does not have",
        ),
        (
            Latents(random_dictionary("autoencoder", ["resid_mid.1"]), (0,)),
            HookPointError,
            "can be read but not changed",
        ),
        (
            Latents(random_dictionary("autoencoder", ["resid_post.1"], width=48), (0,), "main"),
            ModelError,
            "has 48 columns for resid_post.1, but .* have 32 numbers",
        ),
    ],
)
def test_targets_that_are_not_there(target: Any, error: type[Exception], message: str) -> None:
    for described in (llama(), decoder("llama")):
        with pytest.raises(error, match=message):
            check_interventions(described, [Intervention(target, Zero())])


def test_a_transcoder_may_read_what_cannot_be_changed() -> None:
    transcoder = random_dictionary("transcoder", ["resid_mid.1"], ["mlp_out.1"])
    check_interventions(decoder("llama"), [Intervention(Latents(transcoder, (0,)), Zero())])


def test_parallel_blocks_have_no_middle_to_read() -> None:
    transcoder = random_dictionary("transcoder", ["resid_mid.1"], ["mlp_out.1"])
    with pytest.raises(HookPointError, match="in parallel"):
        check_interventions(DECODERS["phi"](), [Intervention(Latents(transcoder, (0,)), Zero())])


def test_directions_of_another_width() -> None:
    wide = Intervention(AtHookPoint("mlp_out.1"), Steer(1.0, torch.ones(33)))
    with pytest.raises(HookPointError, match="has 33 numbers; its activations have 32"):
        check_interventions(llama(), [wide])
    model, tokens = decoder("llama"), torch.arange(3, 8)[None]
    head = Intervention(AttentionHeads(1, (0,)), Steer(1.0, torch.ones(32)))
    with (
        intervened(model, [head]),
        pytest.raises(HookPointError, match="has 32 numbers; wanted 8"),
    ):
        model(tokens)


def test_a_dictionary_of_another_width_at_a_path_is_told_by_the_first_forward() -> None:
    narrow = random_dictionary("autoencoder", ["model.layers.1.mlp.down_proj:in"], width=32)
    model, tokens = decoder("llama"), torch.arange(3, 8)[None]
    with (
        intervened(model, [Intervention(Latents(narrow, (0,)), Zero())]),
        pytest.raises(ModelError, match=r"has 32 columns .* have 48 numbers"),
    ):
        model(tokens)


def test_a_mean_needs_activations() -> None:
    change = Intervention(AtHookPoint("mlp_out.1"), Mean())
    check_interventions(llama(), [change])
    with pytest.raises(ConfigError, match="activations to take it from are not given"):
        check_interventions(decoder("llama"), [change])


@pytest.mark.parametrize(
    ("prompt", "more", "message"),
    [
        (0, 0, "The prompt is empty"),
        (65, 0, "has 65 tokens, but the model was made for at most 64"),
        (60, 5, "60 tokens and 5 are to be generated"),
    ],
)
def test_lengths(prompt: int, more: int, message: str) -> None:
    check_length(llama(), 60, 4)
    with pytest.raises(ModelError, match=message):
        check_length(llama(), prompt, more)


@pytest.mark.parametrize("temperature", [-1.0, NAN, INFINITE])
def test_temperatures(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        Sampling(temperature)


def test_models_without_heads() -> None:
    with pytest.raises(HookPointError, match="no attention"):
        check_interventions(
            hf.MambaConfig(num_hidden_layers=2), [Intervention(AttentionHeads(0, (0,)), Zero())]
        )


def test_logits_that_overflow_are_named() -> None:
    change = Intervention(AtHookPoint("resid_post.1"), Scale(1e38))
    with pytest.raises(NonFiniteError):
        effect(decoder("gpt2"), torch.arange(3, 8), [change, change])
