"""Every decoder of the alias table takes every intervention, and one without effect has none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bathyscope.attribution.interventions.changes import Clamp, Scale, Steer, Zero
from bathyscope.attribution.interventions.effects import forward
from bathyscope.attribution.interventions.generation import Sampling, generate
from bathyscope.attribution.interventions.intervention import (
    AtHookPoint,
    AttentionHeads,
    Intervention,
    Latents,
)
from bathyscope.attribution.interventions.splice import intervened
from bathyscope.models.capture import capture
from bathyscope.models.families import FAMILIES
from bathyscope.models.heads import heads_of
from decoders import DECODERS, HEADS, LAYERS, decoder, random_dictionary

TOKENS = torch.randint(3, 128, (2, 9), generator=torch.Generator().manual_seed(1))
SAE = random_dictionary("autoencoder", ["resid_post.1"])
TRANSCODER = random_dictionary("skip_transcoder", ["mlp_in.1"], ["mlp_out.1"])
CLT = random_dictionary(
    "cross_layer_transcoder",
    [f"mlp_in.{layer}" for layer in range(LAYERS)],
    [f"mlp_out.{layer}" for layer in range(LAYERS)],
)


def test_every_decoder_is_tried() -> None:
    decoders = {
        kind
        for kind, family in FAMILIES.items()
        if family.auto_class == "AutoModelForCausalLM" and not family.mixer
    }
    assert {name.split()[0] for name in DECODERS} == decoders


def active(name: str, hook_point: str, dictionary: object) -> int:
    """A latent that is active at the last position of the first item."""
    x = capture(decoder(name), [hook_point], {"input_ids": TOKENS})[hook_point]
    return int(dictionary.encode(x[0, -1:]).indices[0, 0])  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", DECODERS)
def test_no_change_is_no_change_to_the_bit(name: str) -> None:
    latents = tuple(range(24))
    nothing = [
        Intervention(Latents(SAE, latents), Scale(1.0)),
        Intervention(Latents(TRANSCODER, latents), Steer(0.0)),
        Intervention(Latents(CLT, (*latents, 30, 60)), Scale(1.0)),
        Intervention(AttentionHeads(1, (0, 3)), Scale(1.0)),
        Intervention(AtHookPoint("mlp_out.2"), Scale(1.0)),
        Intervention(AtHookPoint("attn_out.0"), Zero(), positions=(99,)),
    ]
    clean, changed = forward(decoder(name), TOKENS, nothing)
    assert torch.equal(clean, changed)


@pytest.mark.parametrize("name", DECODERS)
def test_each_target_changes_what_it_says(name: str) -> None:
    model, inputs = decoder(name), {"input_ids": TOKENS}
    names = ["resid_post.1", "mlp_out.1", "attn_out.1"]
    before = capture(model, names, inputs)

    latent = active(name, "resid_post.1", SAE)
    with intervened(model, [Intervention(Latents(SAE, (latent,)), Steer(3.0))]):
        after = capture(model, names, inputs)
    wanted = before["resid_post.1"] + 3.0 * SAE.parts[0].W_dec[latent]
    torch.testing.assert_close(after["resid_post.1"], wanted)

    latent = active(name, "mlp_in.1", TRANSCODER)
    with intervened(model, [Intervention(Latents(TRANSCODER, (latent,)), Zero())]):
        after = capture(model, names, inputs)
    z = float(before_latents(name, latent)[0, -1])
    wanted = before["mlp_out.1"][0, -1] - z * TRANSCODER.parts[0].W_dec[latent]
    assert z > 0
    torch.testing.assert_close(after["mlp_out.1"][0, -1], wanted)

    with intervened(model, [Intervention(AtHookPoint("attn_out.1"), Zero())]):
        after = capture(model, names, inputs)
    assert not bool(after["attn_out.1"].any())


def before_latents(name: str, latent: int) -> Tensor:
    x = capture(decoder(name), ["mlp_in.1"], {"input_ids": TOKENS})["mlp_in.1"]
    found = TRANSCODER.encode(x.reshape(-1, 32))
    values = (found.values * (found.indices == latent) * (found.values > 0)).sum(1)
    return values.reshape(2, 9)


@pytest.mark.parametrize("name", DECODERS)
def test_a_head_is_its_block_of_columns(name: str) -> None:
    """Without its columns in the output projection, attention adds what the ablated head leaves."""
    model, heads = decoder(name), heads_of(decoder(name), 1)
    projection = model.get_submodule(heads.hook_point.path)
    assert heads.count == HEADS
    with intervened(model, [Intervention(AttentionHeads(1, (2,)), Zero())]):
        seen = capture(model, [heads.hook_point], {"input_ids": TOKENS})[heads.hook_point.name]
        ablated = model(TOKENS).logits
    width = seen.shape[-1] // HEADS
    assert not bool(seen[..., 2 * width : 3 * width].any())
    assert bool(seen[..., : 2 * width].all())
    kept = projection.weight.clone()
    # The columns of a linear map; GPT-2 stores the transpose.
    axis = 0 if name == "gpt2" else 1
    with torch.no_grad():
        projection.weight.narrow(axis, 2 * width, width).zero_()
        wanted = model(TOKENS).logits
        projection.weight.copy_(kept)
    torch.testing.assert_close(ablated, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_the_loop_of_transformers_sees_the_same_positions(name: str) -> None:
    model, prompt = decoder(name), TOKENS[0]
    changes = [
        Intervention(Latents(SAE, (3, 5)), Steer(6.0), "generated"),
        Intervention(AtHookPoint("mlp_out.0"), Zero(), (-1, 11)),
    ]
    ours = generate(model, prompt, changes, tokens=10)
    with intervened(model, changes, prompt_length=len(prompt)):
        theirs = model.generate(
            prompt[None], max_new_tokens=10, do_sample=False, use_cache=True, eos_token_id=None
        )
    assert theirs[0, len(prompt) :].tolist() == ours


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_with_a_cache_gives_the_tokens_of_one_without(
    name: str, temperature: float
) -> None:
    model, prompt = decoder(name), TOKENS[0]
    changes = [
        Intervention(Latents(SAE, (3, 5)), Clamp(2.0), "generated"),
        Intervention(Latents(CLT, (1, 30)), Clamp(1.0)),
        Intervention(AttentionHeads(2, (1,)), Zero(), "prompt"),
        Intervention(AtHookPoint("mlp_out.0"), Scale(0.5), (-1, 11)),
    ]
    sampling = Sampling(temperature, seed=3)
    with_cache = generate(model, prompt, changes, tokens=12, sampling=sampling)
    without = generate(model, prompt, changes, tokens=12, sampling=sampling, cache=False)
    assert len(with_cache) == 12
    assert with_cache == without
    # The most probable token of a random Gemma, whose embeddings are tied, is the last one again.
    if temperature or name not in ("gemma", "gemma2", "gemma3_text"):
        assert with_cache != generate(model, prompt, tokens=12, sampling=sampling)
