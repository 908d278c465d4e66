"""Side effects against their formulas, written out."""

from __future__ import annotations

import math

import pytest
import torch

from bathyscope.attribution.interventions.changes import Scale, Steer
from bathyscope.attribution.interventions.effects import effect, forward, side_effects
from bathyscope.attribution.interventions.generation import Sampling, generate
from bathyscope.attribution.interventions.intervention import (
    AtHookPoint,
    Intervention,
    Latents,
    described,
)
from bathyscope.metrics.splice import CLEAN, delta_ce
from decoders import decoder, random_dictionary

STEER = Intervention(
    Latents(random_dictionary("autoencoder", ["resid_post.1"]), (4,), "main"), Steer(2.0)
)
TOKENS = torch.randint(3, 128, (3, 9), generator=torch.Generator().manual_seed(1))


def test_losses_of_every_position() -> None:
    model, tokens = decoder("llama"), TOKENS[0]
    clean, changed = forward(model, tokens[None], [STEER])
    found = effect(model, tokens, [STEER], top=3)
    p, q = clean[0].double().softmax(-1), changed[0].double().softmax(-1)
    kl = (p * (p / q).log()).sum(-1)
    ce = torch.stack([-q[t, tokens[t + 1]].log() for t in range(8)])
    torch.testing.assert_close(torch.from_numpy(found.kl), kl, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(found.changed_ce), ce, rtol=0, atol=1e-6)
    assert found.mean_kl == pytest.approx(float(kl.mean()), abs=1e-6)
    before = torch.stack([-p[t, tokens[t + 1]].log() for t in range(8)])
    assert found.mean_delta_ce == pytest.approx(float((ce - before).mean()), abs=1e-6)
    assert [each.token for each in found.before] == p[-1].topk(3).indices.tolist()
    assert [each.token for each in found.after] == q[-1].topk(3).indices.tolist()
    first = found.before[0]
    assert first.clean == pytest.approx(float(p[-1, first.token]), rel=1e-5)
    assert first.changed == pytest.approx(float(q[-1, first.token]), rel=1e-5)


def test_one_token_predicts_nothing_that_is_there() -> None:
    found = effect(decoder("llama"), TOKENS[0, :1], [STEER])
    assert found.mean_delta_ce is None
    assert len(found.kl) == 1


def test_nothing_has_no_effect() -> None:
    nothing = Intervention(AtHookPoint("mlp_out.1"), Scale(1.0))
    found = effect(decoder("llama"), TOKENS[0], [nothing])
    assert found.mean_delta_ce == 0.0
    assert abs(found.mean_kl) < 1e-7


def test_side_effects_count_kept_positions_and_change_no_others() -> None:
    model = decoder("llama")
    keep = torch.ones(3, 9, dtype=torch.bool)
    keep[:, 0] = False
    found = side_effects(
        model,
        {"steered": [STEER], "at generated": [Intervention(STEER.target, Steer(2.0), "generated")]},
        tokens=TOKENS,
        keep=keep,
        documents=torch.arange(3)[:, None].expand(3, 9),
        batch_items=2,
    )
    assert list(found) == [CLEAN, "steered", "at generated"]
    assert found[CLEAN].num_tokens.tolist() == [7, 7, 7]
    # By hand for an item: the change is made from position 1 on.
    late = Intervention(STEER.target, Steer(2.0), tuple(range(1, 9)))
    one = effect(model, TOKENS[1], [late])
    assert found["steered"].ce_sums[1] == pytest.approx(one.changed_ce[1:].sum(), abs=1e-5)
    assert found["steered"].kl_sums[1] == pytest.approx(one.kl[1:8].sum(), abs=1e-5)
    assert delta_ce(found["steered"], found["at generated"]) == 0.0


def test_draws_follow_the_distribution_and_the_seed() -> None:
    model, prompt = decoder("llama"), TOKENS[0]
    with torch.no_grad():
        shares = model(prompt[None]).logits[0, -1].double().softmax(-1)
    drawn = [
        generate(model, prompt, tokens=1, sampling=Sampling(1.0, seed))[0] for seed in range(300)
    ]
    token = int(shares.argmax())
    expected = 300 * float(shares[token])
    spread = math.sqrt(expected * (1 - float(shares[token])))
    assert abs(drawn.count(token) - expected) < 4 * spread
    again = generate(model, prompt, tokens=1, sampling=Sampling(1.0, 7))
    assert again == [drawn[7]]


def test_a_stop_token_ends_the_text_and_is_not_part_of_it() -> None:
    model, prompt = decoder("llama"), TOKENS[0]
    whole = generate(model, prompt, tokens=6)
    place = whole.index(whole[2])
    assert generate(model, prompt, tokens=6, stop=[whole[2]]) == whole[:place]


def test_in_words() -> None:
    late = Intervention(STEER.target, Scale(0.5), (3, -1))
    assert described([STEER, late]) == (
        "steer latent 4 of main by 2; scale latent 4 of main by 0.5 at positions 3, -1"
    )
    assert described([]) == "nothing"
