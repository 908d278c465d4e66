"""Language models in training: what is learned, exact resume, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.errors import NonFiniteError
from bathyscope.models.rungs import Rung, new_decoder, rung_config
from bathyscope.training.language import (
    LanguagePlan,
    LanguageState,
    LanguageTraining,
    decayed,
    log_spaced,
    losses,
)

VOCABULARY, LENGTH, ITEMS = 300, 16, 4
PLAN = LanguagePlan(
    num_steps=12,
    lr=0.01,
    warmup_share=0.25,
    decay_share=0.25,
    weight_decay=0.1,
    clip_norm=1.0,
    evaluated=frozenset({1, 4, 8, 12}),
    saved=frozenset(),
    patience=0,
)


class Counting:
    """Sequences that count up from a start which follows from the step: easy to learn."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def batch(self, step: int) -> Tensor:
        self.asked.append(step)
        starts = torch.arange(ITEMS) * 7 + step
        return (starts[:, None] + torch.arange(LENGTH)) % VOCABULARY


@pytest.fixture(scope="module")
def held_out() -> Tensor:
    return (torch.arange(8)[:, None] * 11 + torch.arange(LENGTH)) % VOCABULARY


def model(family: str = "llama") -> nn.Module:
    rung = Rung(parameters=30_000, width=32, layers=2, heads=2)
    return new_decoder(rung_config(family, rung, vocabulary=VOCABULARY, context=LENGTH), seed=0)


def ticking() -> Callable[[], float]:
    """A clock that goes on by a second whenever it is read."""
    times = iter(range(10**6))
    return lambda: float(next(times))


def trained(plan: LanguagePlan, held_out: Tensor, **given: Any) -> LanguageTraining:
    training = LanguageTraining(
        given.pop("model", None) or model(), plan, batches=Counting(), held_out=held_out, **given
    )
    clock = ticking()
    while not training.finished:
        training.advance(clock)
    return training


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_training_that_goes_on_from_any_state_ends_with_the_same_bits(
    family: str, held_out: Tensor
) -> None:
    plan, clock = PLAN, ticking()
    training = LanguageTraining(model(family), plan, batches=Counting(), held_out=held_out)
    states: list[LanguageState] = []
    while not training.finished:
        training.advance(clock)
        found = training.snapshot()
        copied = {name: tensor.clone() for name, tensor in found.tensors.items()}
        states.append(replace(found, tensors=copied))
    for state in states[::3]:
        start = replace(state, curve=list(state.curve))
        again = trained(plan, held_out, model=model(family), start=start)
        for mine, other in zip(again.model.parameters(), training.model.parameters(), strict=True):
            assert torch.equal(mine, other)
        assert again.best().keys() == training.best().keys()
        assert all(torch.equal(again.best()[n], t) for n, t in training.best().items())
        assert [p.held_out_loss for p in again.state.curve] == [
            p.held_out_loss for p in training.state.curve
        ]
        assert [p.train_loss for p in again.state.curve] == [
            p.train_loss for p in training.state.curve
        ]


def test_it_learns_and_starts_at_the_loss_of_a_uniform_guess(held_out: Tensor) -> None:
    before = float(losses(model(), held_out).mean())
    assert before == pytest.approx(math.log(VOCABULARY), abs=0.1)
    curve = trained(replace(PLAN, num_steps=80, evaluated=frozenset({80})), held_out).state.curve
    assert curve[-1].held_out_loss < 0.6 * before
    assert curve[-1].tokens == 80 * ITEMS * LENGTH


def test_losses_are_cross_entropies_of_the_next_token(held_out: Tensor) -> None:
    network = model()
    found = losses(network, held_out)
    assert found.shape == (8, LENGTH - 1)
    with torch.no_grad():
        logits = network(input_ids=held_out[2:3]).logits[0]
    expected = -torch.log_softmax(logits, dim=-1)[5, held_out[2, 6]]
    torch.testing.assert_close(found[2, 5], expected)


def test_points_have_the_mean_loss_since_the_last_one_and_the_rate_of_their_step(
    held_out: Tensor,
) -> None:
    every = trained(replace(PLAN, evaluated=frozenset(range(1, 13))), held_out).state.curve
    some = trained(PLAN, held_out).state.curve
    assert [point.step for point in some] == [1, 4, 8, 12]
    mean = sum(point.train_loss for point in every[1:4]) / 3
    assert some[1].train_loss == pytest.approx(mean, abs=1e-12)
    # Three steps up, three down: the first has a third of the rate, and so has the last.
    assert [p.lr for p in some] == pytest.approx([0.01 / 3, 0.01, 0.01, 0.01 / 3])
    assert every[-1].seconds >= every[0].seconds > 0


def test_it_stops_when_the_held_out_loss_gets_no_better_and_keeps_the_best(
    held_out: Tensor,
) -> None:
    # Labels that follow no rule are learned by heart, and nothing else gets better by that.
    noise = torch.randint(VOCABULARY, (ITEMS, LENGTH), generator=torch.Generator().manual_seed(0))

    class Same(Counting):
        def batch(self, step: int) -> Tensor:
            return noise

    plan = replace(PLAN, num_steps=500, evaluated=frozenset(range(5, 501, 5)), patience=3)
    training = LanguageTraining(model(), plan, batches=Same(), held_out=held_out)
    while not training.finished:
        training.advance(ticking())
    state = training.state
    assert state.stopped
    assert state.step == state.best_step + 15 < 500
    best = min(state.curve, key=lambda point: point.held_out_loss)
    assert (best.step, best.held_out_loss) == (state.best_step, state.best_loss)
    network = model()
    network.load_state_dict(training.best(), strict=False)
    assert float(losses(network, held_out).double().mean()) == state.best_loss


def test_products_in_bfloat16_leave_weights_and_losses_in_float32(held_out: Tensor) -> None:
    plain, half = trained(PLAN, held_out), trained(replace(PLAN, bfloat16=True), held_out)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    assert losses(half.model, held_out, bfloat16=True).dtype == torch.float32
    found, wanted = (t.state.curve[-1].held_out_loss for t in (half, plain))
    assert found == pytest.approx(wanted, rel=0.02)
    assert found != wanted


def test_a_loss_that_is_no_number_ends_it(held_out: Tensor) -> None:
    network = model()
    with torch.no_grad():
        next(network.parameters()).fill_(math.nan)
    training = LanguageTraining(network, PLAN, batches=Counting(), held_out=held_out)
    with pytest.raises(NonFiniteError, match=r"loss of step 0 is nan\. Lower ladder\.lr"):
        training.advance(ticking())


def test_matrices_decay_and_gains_and_biases_do_not() -> None:
    network = model("gpt2")
    matrices, rest = decayed(network)
    assert {id(p) for p in (*matrices, *rest)} == {id(p) for p in network.parameters()}
    assert {p.ndim for p in matrices} == {2}
    assert {p.ndim for p in rest} == {1}


def test_log_spaced_numbers_by_hand() -> None:
    assert log_spaced(4, 1000) == [1, 10, 100, 1000]
    assert log_spaced(8, 4) == [1, 2, 3, 4]
    assert log_spaced(1, 7) == [7]
    assert log_spaced(5, 1) == [1]
