"""One step: the same as dense autograd, dead latents counted and revived, NaN refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bathyscope.dictionaries.dictionary import Dictionary, topk_autoencoder
from bathyscope.errors import ConfigError, NonFiniteError
from bathyscope.training.losses import fvu
from bathyscope.training.step import Step, StepSettings

WEIGHT = 1 / 32
NEVER = 10**9
LOSS_TOLERANCE = 1e-5
"""Relative; float32 sums in another order differ by about 1e-6."""
WEIGHT_TOLERANCE = 1e-4
"""Relative norm after 20 steps of Adam, which divides small gradients by their own size."""


class Dense:
    """The plainest correct step: dense scores, autograd, Adam, unit rows."""

    def __init__(self, dictionary: Dictionary, lr: float, dead: Tensor | None) -> None:
        self.weights = {
            name: value.detach().clone().requires_grad_()
            for name, value in dictionary.named_parameters()
        }
        self.k, self.dead = dictionary.k, dead
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=lr)

    def _decode(self, scores: Tensor, k: int) -> Tensor:
        values, indices = scores.topk(k)
        sparse = torch.zeros_like(scores).scatter(1, indices, values.relu())
        return sparse @ self.weights["W_dec"]

    def step(self, x: Tensor) -> float:
        w = self.weights
        scores = (x - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]
        error = x - self._decode(scores, self.k) - w["b_dec"]
        loss = error.pow(2).sum() / (x - x.mean(0)).pow(2).sum()
        if self.dead is not None:
            e = error.detach()
            k_aux = min(x.shape[1] // 2, int(self.dead.sum()))
            e_hat = self._decode(scores.masked_fill(~self.dead, -torch.inf), k_aux)
            loss = loss + WEIGHT * (e - e_hat).pow(2).sum() / (e - e.mean(0)).pow(2).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            w["W_dec"] /= w["W_dec"].norm(dim=1, keepdim=True)
        return float(loss.detach())


def batches(num: int, rows: int = 256, d: int = 24) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn(rows, d, generator=generator) * torch.linspace(2, 0.2, d) for _ in range(num)
    ]


def random_topk(num_latents: int = 192, d: int = 24, k: int = 8) -> Dictionary:
    dictionary = topk_autoencoder(d_in=d, num_latents=num_latents, k=k, dtype=torch.float32)
    rows = normalize(torch.randn(num_latents, d, generator=torch.Generator().manual_seed(6)))
    with torch.no_grad():
        dictionary.W_enc.copy_(rows)
        dictionary.W_dec.copy_(rows)
    return dictionary


@pytest.mark.parametrize("num_dead", [0, 5, 40])
def test_twenty_steps_equal_dense_autograd(num_dead: int) -> None:
    # d_in // 2 is 12: 5 dead latents are all taken, of 40 the 12 largest.
    dictionary = random_topk()
    dead = torch.zeros(192, dtype=torch.bool)
    dead[torch.randperm(192, generator=torch.Generator().manual_seed(1))[:num_dead]] = True
    reference = Dense(dictionary, 1e-3, dead if num_dead else None)
    step = Step(
        dictionary,
        StepSettings(auxk_weight=WEIGHT if num_dead else 0.0, dead_after_tokens=NEVER),
        lr=1e-3,
    )
    for x in batches(20):
        step.silent_tokens[0][:] = torch.where(dead, NEVER, 0)
        figures = step.step(x)
        assert figures.loss == pytest.approx(reference.step(x), rel=LOSS_TOLERANCE)
        assert (figures.auxk > 0) == (num_dead > 0)
    for name, wanted in reference.weights.items():
        got = getattr(dictionary, name)
        assert float((got - wanted).detach().norm() / wanted.detach().norm()) < WEIGHT_TOLERANCE


def test_figures_of_a_step() -> None:
    step = Step(random_topk(), StepSettings(auxk_weight=WEIGHT, dead_after_tokens=256), lr=2e-3)
    x = batches(1)[0]
    latents, x_hat = step.dictionary.reconstruct(x)
    unexplained = fvu(x, x_hat).item()
    silent = 1 - len(latents.indices[latents.values > 0].unique()) / 192
    first = step.step(x)
    assert first.fvu == pytest.approx(unexplained, rel=1e-5)
    assert (first.auxk, first.loss, first.l0, first.lr) == (0.0, first.fvu, 8.0, 2e-3)
    assert first.dead_share == pytest.approx(silent)
    second = step.step(x)
    assert second.loss == pytest.approx(second.fvu + WEIGHT * second.auxk, rel=1e-6)


def test_decoder_rows_stay_unit_and_the_rate_is_obeyed() -> None:
    step = Step(random_topk(), StepSettings(auxk_weight=0.0, dead_after_tokens=NEVER), lr=1e-2)
    for x in batches(3):
        step.step(x)
        torch.testing.assert_close(step.dictionary.W_dec.detach().norm(dim=1), torch.ones(192))
    before = step.dictionary.W_enc.detach().clone()
    step.set_lr(0.0)
    assert step.step(x).lr == 0.0
    assert torch.equal(step.dictionary.W_enc, before)


def axes_step(dead_after_tokens: int) -> Step:
    """Latent i reads dimension i; nothing is learned."""
    dictionary = topk_autoencoder(d_in=3, num_latents=3, k=1, dtype=torch.float32)
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.eye(3))
        dictionary.W_dec.copy_(torch.eye(3))
    return Step(
        dictionary, StepSettings(auxk_weight=0.0, dead_after_tokens=dead_after_tokens), lr=0.0
    )


def rows_along(*dimensions: int) -> Tensor:
    """One row along each named dimension, of growing size."""
    rows = torch.zeros(len(dimensions), 3)
    for number, dimension in enumerate(dimensions):
        rows[number, dimension] = number + 1.0
    return rows


def test_silence_is_counted_in_rows_and_a_firing_ends_it() -> None:
    step = axes_step(dead_after_tokens=8)
    seen = []
    for x in (
        rows_along(0, 0, 0, 0),
        rows_along(0, 0, 0, 0),
        rows_along(0, 1, 0),
        rows_along(2, 2),
    ):
        figures = step.step(x)
        seen.append((step.silent_tokens[0].tolist(), step.dead[0].tolist()))
        assert figures.dead_share == pytest.approx(len(step.dead[0]) / 3)
    assert seen == [
        ([0, 4, 4], []),
        ([0, 8, 8], [1, 2]),
        ([0, 0, 11], [2]),
        ([2, 2, 0], []),
    ]


def test_a_value_of_zero_is_no_firing() -> None:
    step = axes_step(dead_after_tokens=8)
    step.step(-rows_along(0, 1, 2))
    assert step.silent_tokens[0].tolist() == [3, 3, 3]


@pytest.mark.parametrize("tokens", [0, -1])
def test_a_limit_below_one_token_is_refused(tokens: int) -> None:
    with pytest.raises(ConfigError, match=rf"after {tokens} silent tokens.*dead_after_epochs"):
        axes_step(dead_after_tokens=tokens)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_batch_that_is_not_finite_changes_nothing(bad: float) -> None:
    dictionary = random_topk()
    step = Step(dictionary, StepSettings(auxk_weight=WEIGHT, dead_after_tokens=256), lr=1e-3)
    good = batches(3)
    step.step(good[0])
    twin = copy.deepcopy(step)
    x = good[1].clone()
    x[17, 3] = bad
    with pytest.raises(NonFiniteError, match=r"training loss became .*Lower train\.lr"):
        step.step(x)
    assert torch.equal(step.silent_tokens[0], twin.silent_tokens[0])
    assert step.step(good[2]) == twin.step(good[2])
    for name, parameter in twin.dictionary.named_parameters():
        assert torch.equal(getattr(dictionary, name), parameter), name


def test_rows_without_variance_are_refused() -> None:
    step = Step(random_topk(), StepSettings(auxk_weight=WEIGHT, dead_after_tokens=NEVER), lr=1e-3)
    with pytest.raises(NonFiniteError, match="look for extreme rows"):
        step.step(torch.ones(8, 24))


NUM_PLANTED = 16
REVIVAL_STEPS = 150


def planted_dead(fresh: Callable[..., Dictionary]) -> Dictionary:
    """The first 16 latents read so faintly that they never come among the k largest."""
    dictionary = fresh()
    with torch.no_grad():
        dictionary.W_enc[:NUM_PLANTED] *= 1e-3
    return dictionary


@pytest.mark.parametrize(
    ("weight", "alive_at_least", "alive_at_most"), [(WEIGHT, 14, 16), (0, 0, 0)]
)
def test_auxk_revives_planted_dead_latents(
    fresh: Callable[..., Dictionary],
    planted: Callable[[int, int], Tensor],
    weight: float,
    alive_at_least: int,
    alive_at_most: int,
) -> None:
    step = Step(
        planted_dead(fresh), StepSettings(auxk_weight=weight, dead_after_tokens=1024), lr=3e-3
    )
    fired_once = torch.zeros(NUM_PLANTED, dtype=torch.bool)
    for number in range(REVIVAL_STEPS):
        step.step(planted(256, number))
        fired_once |= step.silent_tokens[0][:NUM_PLANTED] == 0
    alive = int(fired_once.sum())
    assert alive_at_least <= alive <= alive_at_most
