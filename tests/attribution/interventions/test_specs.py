"""Words become interventions, and words that cannot be meant are refused with what may be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bathyscope.attribution.interventions.changes import (
    Clamp,
    Mean,
    Resample,
    Scale,
    Steer,
    Zero,
)
from bathyscope.attribution.interventions.effects import forward
from bathyscope.attribution.interventions.intervention import (
    AtHookPoint,
    AttentionHeads,
    Latents,
)
from bathyscope.attribution.interventions.reference import with_reference
from bathyscope.attribution.interventions.specs import intervention_of
from bathyscope.attribution.interventions.splice import intervened
from bathyscope.errors import ConfigError, MissingArtifact
from bathyscope.models.capture import capture
from decoders import decoder, random_dictionary

SAE = random_dictionary("autoencoder", ["resid_post.1"])
CLT = random_dictionary(
    "cross_layer_transcoder", ["mlp_in.0", "mlp_in.1"], ["mlp_out.0", "mlp_out.1"]
)
HELD: dict[str, Any] = {"main": SAE, "layers": CLT}


def test_latents() -> None:
    made = intervention_of({"latent": 4, "steer": 8}, HELD)
    assert isinstance(made.target, Latents)
    assert (made.target.dictionary, made.target.indices) == (SAE, (4,))
    assert isinstance(made.change, Steer)
    assert (made.change.strength, made.positions) == (8.0, "all")
    made = intervention_of(
        {"latent": [1, 47], "dictionary": "layers", "clamp": 0.5, "positions": [0, -1]}, HELD
    )
    assert isinstance(made.target, Latents)
    assert (made.target.dictionary, made.change, made.positions) == (CLT, Clamp(0.5), (0, -1))


def test_heads_and_hook_points() -> None:
    made = intervention_of({"layer": 2, "head": [1, 3], "ablate": "zero"}, {})
    assert (made.target, made.change) == (AttentionHeads(2, (1, 3)), Zero())
    made = intervention_of({"hook": "mlp_out.1", "scale": 2, "positions": "generated"}, {})
    assert (made.target, made.change) == (AtHookPoint("mlp_out.1"), Scale(2.0))
    assert made.positions == "generated"
    assert isinstance(intervention_of({"hook": "a", "ablate": "mean"}, {}).change, Mean)
    resampled = intervention_of({"hook": "a", "ablate": "resample", "seed": 5}, {}).change
    assert isinstance(resampled, Resample)
    assert resampled.seed == 5


def test_a_hook_point_is_steered_along_a_decoder_row() -> None:
    made = intervention_of({"hook": "resid_post.0", "steer": 2, "along": 7}, HELD)
    assert isinstance(made.change, Steer)
    assert made.change.direction is not None
    assert torch.equal(made.change.direction, SAE.parts[0].W_dec[7])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"latents": 4, "steer": 1}, "has 'latents'. Did you mean latent"),
        ({"steer": 1}, "has no target"),
        ({"latent": 1, "hook": "mlp_out.1", "steer": 1}, "has latent and hook"),
        ({"latent": 1}, "has no change: {latent: 1}"),
        ({"latent": 1, "steer": 1, "clamp": 2}, "has clamp and steer"),
        ({"latent": 1, "ablate": "median"}, "ablate is 'median'"),
        ({"latent": "one", "steer": 1}, "latent is 'one'. A number"),
        ({"latent": [1.5], "steer": 1}, r"latent is \[1.5\]"),
        ({"latent": True, "steer": 1}, "latent is True"),
        ({"latent": 1, "steer": "much"}, "steer is 'much'"),
        ({"latent": 1, "steer": float("nan")}, "steer is nan"),
        ({"latent": 24, "steer": 1}, "Latent 24 .* latents 0 to 23"),
        ({"head": 1, "ablate": "zero"}, "told by its layer too"),
        ({"latent": 1, "steer": 1, "positions": "last"}, "positions of an intervention are 'last'"),
        ({"layer": 1, "head": 1, "steer": 1, "along": 3}, "cannot be steered along a latent"),
        (
            {"hook": "mlp_out.1", "steer": 1, "along": 3, "dictionary": "layers"},
            "writes to mlp_out.0, mlp_out.1",
        ),
        ({"hook": "mlp_out.1", "steer": 1}, "direction is wanted"),
    ],
)
def test_words_that_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        intervention_of(words, HELD)


def test_dictionaries_that_are_not_there() -> None:
    with pytest.raises(MissingArtifact, match=r"no dictionary 'mian'. Did you mean main\?"):
        intervention_of({"latent": 1, "steer": 1, "dictionary": "mian"}, HELD)
    with pytest.raises(MissingArtifact, match="The run has no dictionary"):
        intervention_of({"latent": 1, "steer": 1}, {})


def test_means_are_over_the_kept_positions_of_the_given_texts() -> None:
    model = decoder("llama")
    tokens = torch.randint(3, 128, (3, 9), generator=torch.Generator().manual_seed(1))
    keep = torch.ones(3, 9, dtype=torch.bool)
    keep[:, 0] = False
    words: list[dict[str, Any]] = [
        {"latent": [2, 3], "dictionary": "layers", "ablate": "mean"},
        {"layer": 1, "head": 2, "ablate": "mean"},
        {"hook": "mlp_out.2", "ablate": "resample"},
        {"hook": "mlp_out.0", "scale": 2.0},
    ]
    given = [intervention_of(each, HELD) for each in words]
    filled = with_reference(model, given, tokens=tokens, keep=keep, batch_items=2)
    shapes = [getattr(each.change, "activations", None) for each in filled]
    assert [None if s is None else tuple(s.shape) for s in shapes] == [
        (24, 64), (24, 32), (24, 32), None,
    ]  # fmt: skip
    name = "model.layers.1.self_attn.o_proj:in"
    seen = capture(model, [name], {"input_ids": tokens})[name]
    with intervened(model, filled[1:2]):
        after = capture(model, [name], {"input_ids": tokens})[name]
    mean = seen[keep].mean(0)
    torch.testing.assert_close(after[0, 4, 16:24], mean[16:24])
    assert torch.equal(after[..., :16], seen[..., :16])
    assert bool(forward(model, tokens, filled).changed.isfinite().all())
