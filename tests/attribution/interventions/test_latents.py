"""Changed latents move the output by exactly what their decoder rows say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.attribution.interventions.changes import (
    Change,
    Clamp,
    Mean,
    Resample,
    Scale,
    Steer,
    Zero,
)
from bathyscope.attribution.interventions.effects import forward
from bathyscope.attribution.interventions.intervention import Intervention, Latents
from bathyscope.attribution.interventions.splice import intervened
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import HookPointError
from bathyscope.models.capture import capture
from bathyscope.models.splice import spliced
from decoders import LAYERS, decoder, random_dictionary

D, VOCABULARY = 6, 10
LATENT = 3


class LinearToy(nn.Module):
    """logits = W_U · stream, where the stream is the embedding of the token."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, D, generator=generator, dtype=dtype))
        self.W_U = nn.Parameter(torch.randn(VOCABULARY, D, generator=generator, dtype=dtype))
        self.stream = nn.Identity()

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        return SimpleNamespace(logits=self.stream(self.embedding[input_ids]) @ self.W_U.T)


def planted(dtype: torch.dtype) -> AnyDictionary:
    """Twice as many latents as dimensions, one of them planted: active wherever x[0] > 0.5."""
    dictionary = random_dictionary(
        "autoencoder", ["stream"], width=D, num_latents=2 * D, activation="relu", dtype=dtype
    )
    (part,) = dictionary.parts
    with torch.no_grad():
        part.b_dec.zero_()
        part.W_enc[LATENT], part.b_enc[LATENT] = torch.eye(D)[0], -0.5
    return dictionary


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (Clamp(2.5), lambda z: torch.full_like(z, 2.5)),
        (Zero(), torch.zeros_like),
        (Scale(-3.0), lambda z: -3.0 * z),
        (Steer(0.75), lambda z: z + 0.75),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=str
)
def test_logits_change_by_the_analytic_amount(
    change: Change, changed: Any, dtype: torch.dtype, tolerance: float
) -> None:
    model, dictionary = LinearToy(dtype), planted(dtype)
    tokens = torch.arange(VOCABULARY)[None]
    clean, after = forward(model, tokens, [Intervention(Latents(dictionary, (LATENT,)), change)])
    # By hand: z = relu(x[0] - 0.5), and the change of the logits is (z' - z) · W_dec[f] · W_U.
    z = (model.embedding[:, 0] - 0.5).relu()
    assert 0 < int((z > 0).sum()) < VOCABULARY
    writes = dictionary.parts[0].W_dec[LATENT] @ model.W_U.T
    wanted = (changed(z) - z)[:, None] * writes
    torch.testing.assert_close((after - clean)[0], wanted, rtol=tolerance, atol=tolerance)


def test_mean_and_resampled_latents_are_those_of_the_given_activations() -> None:
    model, dictionary = LinearToy(torch.float64), planted(torch.float64)
    tokens = torch.arange(VOCABULARY)[None]
    given = torch.zeros(3, D, dtype=torch.float64)
    given[:, 0] = torch.tensor([1.5, 0.0, 2.0])  # z = 1, 0 and 1.5
    z = (model.embedding[:, 0] - 0.5).relu()
    writes = dictionary.parts[0].W_dec[LATENT] @ model.W_U.T
    target = Latents(dictionary, (LATENT,))
    clean, mean = forward(model, tokens, [Intervention(target, Mean(given))])
    torch.testing.assert_close((mean - clean)[0], (2.5 / 3 - z)[:, None] * writes)
    clean, other = forward(model, tokens, [Intervention(target, Resample(given))])
    rows = torch.tensor([1.0, 0.0, 1.5, 1.0, 0.0, 1.5, 1.0, 0.0, 1.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close((other - clean)[0], (rows - z)[:, None] * writes)


def test_changes_of_one_latent_follow_each_other() -> None:
    model, dictionary = LinearToy(torch.float64), planted(torch.float64)
    tokens, target = torch.arange(VOCABULARY)[None], Latents(dictionary, (LATENT,))
    both = [Intervention(target, Clamp(1.0)), Intervention(target, Scale(3.0))]
    one = [Intervention(target, Clamp(3.0))]
    assert torch.equal(forward(model, tokens, both).changed, forward(model, tokens, one).changed)


def test_latents_that_are_not_in_the_top_k_count_as_zero() -> None:
    dictionary = random_dictionary("autoencoder", ["resid_post.1"])
    model, tokens = decoder("llama"), torch.arange(3, 12)[None]
    x = capture(model, ["resid_post.1"], tokens)["resid_post.1"]
    found = dictionary.encode(x[0])
    z = torch.zeros(9, dictionary.num_latents).scatter_(1, found.indices.long(), found.values)
    every = tuple(range(dictionary.num_latents))
    with intervened(model, [Intervention(Latents(dictionary, every), Clamp(1.0))]):
        after = capture(model, ["resid_post.1"], tokens)["resid_post.1"]
    wanted = x[0] + (1.0 - z) @ dictionary.parts[0].W_dec
    torch.testing.assert_close(after[0], wanted)


def clt() -> AnyDictionary:
    return random_dictionary(
        "cross_layer_transcoder",
        [f"mlp_in.{layer}" for layer in range(LAYERS)],
        [f"mlp_out.{layer}" for layer in range(LAYERS)],
    )


def test_a_transcoder_reads_before_its_module_and_writes_after_it() -> None:
    for kind in ("transcoder", "skip_transcoder"):
        dictionary = random_dictionary(kind, ["mlp_in.1"], ["mlp_out.1"])
        model, tokens = decoder("gpt2"), torch.arange(3, 12)[None]
        seen = capture(model, ["mlp_in.1", "mlp_out.1"], tokens)
        found = dictionary.encode(seen["mlp_in.1"][0])
        latent = int(found.indices[0, 0])
        z = (found.values * (found.indices == latent) * (found.values > 0)).sum(1)
        with intervened(model, [Intervention(Latents(dictionary, (latent,)), Clamp(5.0))]):
            after = capture(model, ["mlp_in.1", "mlp_out.1"], tokens)
        assert torch.equal(after["mlp_in.1"], seen["mlp_in.1"])
        wanted = seen["mlp_out.1"][0] + (5.0 - z)[:, None] * dictionary.parts[0].W_dec[latent]
        torch.testing.assert_close(after["mlp_out.1"][0], wanted)


def test_a_cross_layer_latent_writes_to_every_layer_from_its_own_on() -> None:
    dictionary, latent = clt(), 24 + 7  # latent 7 of layer 1
    model, tokens = decoder("llama"), torch.arange(3, 12)[None]
    part = dictionary.parts[1]
    row = part.W_dec[7]
    with (
        spliced(model, "mlp_out.1", lambda y: y + 2.0 * row[:32]),
        spliced(model, "mlp_out.2", lambda y: y + 2.0 * row[32:]),
        torch.no_grad(),
    ):
        wanted = model(tokens).logits
    steered = forward(model, tokens, [Intervention(Latents(dictionary, (latent,)), Steer(2.0))])
    torch.testing.assert_close(steered.changed, wanted)
    # Clamped: by the value that the latent has in the model's own layer 1.
    x = capture(model, ["mlp_in.1"], tokens)["mlp_in.1"][0]
    found = part.encode(x)
    z = (found.values * (found.indices == 7) * (found.values > 0)).sum(1)
    by = (1.5 - z)[:, None]
    with (
        spliced(model, "mlp_out.1", lambda y: y + by * row[:32]),
        spliced(model, "mlp_out.2", lambda y: y + by * row[32:]),
        torch.no_grad(),
    ):
        wanted = model(tokens).logits
    clamped = forward(model, tokens, [Intervention(Latents(dictionary, (latent,)), Clamp(1.5))])
    torch.testing.assert_close(clamped.changed, wanted)


def test_later_latents_read_the_changed_stream() -> None:
    """A second change in layer 2 sets the latent from what layer 2 receives after the first."""
    dictionary, model, tokens = clt(), decoder("llama"), torch.arange(3, 12)[None]
    first = Intervention(Latents(dictionary, (5,)), Steer(4.0))
    with intervened(model, [first]):
        x = capture(model, ["mlp_in.2"], tokens)["mlp_in.2"][0]
        y = capture(model, ["mlp_out.2"], tokens)["mlp_out.2"][0]
    found = dictionary.parts[2].encode(x)
    latent = int(found.indices[4, 0])
    z = (found.values * (found.indices == latent) * (found.values > 0)).sum(1)
    second = Intervention(Latents(dictionary, (48 + latent,)), Clamp(1.0))
    with intervened(model, [first, second]):
        after = capture(model, ["mlp_out.2"], tokens)["mlp_out.2"][0]
    torch.testing.assert_close(after, y + (1.0 - z)[:, None] * dictionary.parts[2].W_dec[latent])


def test_rows_keep_their_bits_in_bfloat16_and_gradients_flow() -> None:
    dictionary = random_dictionary("autoencoder", ["0"])
    model = nn.Sequential(nn.Identity())
    x = torch.randn(2, 5, 32, dtype=torch.bfloat16, requires_grad=True)
    same = Intervention(Latents(dictionary, (1, 2)), Scale(1.0))
    with intervened(model, [same]):
        assert torch.equal(model(x), x)
    some = Intervention(Latents(dictionary, (1,)), Steer(1.0), (2,))
    with intervened(model, [some]):
        after = model(x)
    assert after.dtype == torch.bfloat16
    assert torch.equal(after[:, [0, 1, 3, 4]], x[:, [0, 1, 3, 4]])
    wanted = (x[:, 2].float() + dictionary.parts[0].W_dec[1]).bfloat16()
    assert torch.equal(after[:, 2], wanted)
    after.float().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_minus_zero_stays_minus_zero() -> None:
    dictionary = random_dictionary("autoencoder", ["0"])
    model, x = nn.Sequential(nn.Identity()), torch.full((1, 3, 32), -0.0)
    with intervened(model, [Intervention(Latents(dictionary, (1,)), Scale(1.0))]):
        assert bool(torch.signbit(model(x)).all())


def test_a_dictionary_that_reads_after_it_writes_is_told_so() -> None:
    dictionary = random_dictionary("transcoder", ["mlp_in.2"], ["mlp_out.1"])
    model = decoder("llama")
    change = Intervention(Latents(dictionary, (1,)), Clamp(1.0))
    with pytest.raises(HookPointError, match=r"reaches before mlp_in\.2, which it reads"):
        forward(model, torch.arange(3, 8)[None], [change])
