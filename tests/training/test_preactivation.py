"""The pre-activation loss: its gradient, and that dead latents come back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.errors import ConfigError
from bathyscope.training import preactivation
from bathyscope.training.initial import initialise
from bathyscope.training.preactivation import preactivation_loss
from bathyscope.training.step import Step, StepSettings

COLUMNS = columns_of([("a", 16)])
Rows = Callable[[int, int], Tensor]


def jumprelu(
    rows: Tensor, *, num_latents: int = 64, dtype: torch.dtype = torch.float32
) -> Dictionary:
    made = make_dictionary(
        "autoencoder", COLUMNS, COLUMNS, activation="jumprelu", k=3, num_latents=num_latents,
        dtype=dtype,
    )  # fmt: skip
    initialise(made, x=rows, y=rows, mean=rows.mean(0), seed=0)
    assert isinstance(made, Dictionary)
    return made


@pytest.mark.parametrize("unit_rows", [True, False])
@pytest.mark.parametrize("numbers_at_once", [1, 2**24])
def test_value_and_gradients_are_those_of_autograd(
    planted: Rows, monkeypatch: pytest.MonkeyPatch, unit_rows: bool, numbers_at_once: int
) -> None:
    monkeypatch.setattr(preactivation, "_MOST_NUMBERS", numbers_at_once)
    rows = planted(50, 0).double()
    dictionary = jumprelu(rows, dtype=torch.float64)
    with torch.no_grad():
        dictionary.W_dec.mul_(torch.linspace(0.5, 2, 64, dtype=torch.float64)[:, None])
    dead = torch.tensor([0, 7, 30, 63])
    weights = dict(dictionary.named_parameters())
    centre = rows.mean(0).clone().requires_grad_()

    pre = (rows - centre) @ dictionary.W_enc.T + dictionary.b_enc
    lacking = torch.relu(weights["activation.threshold"] - pre)[:, dead].sum(0)
    norms = torch.ones(4) if unit_rows else dictionary.W_dec[dead].norm(dim=1)
    wanted = (lacking * norms).sum()
    found = preactivation_loss(dictionary, rows, centre, dead, unit_rows=unit_rows)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-12)

    names = ["W_enc", "b_enc", "activation.threshold"] + ([] if unit_rows else ["W_dec"])
    inputs = [centre, *(weights[name] for name in names)]
    for got, want in zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs), strict=True
    ):
        torch.testing.assert_close(got.to_dense(), want, rtol=1e-12, atol=1e-12)


def test_the_loss_of_a_step_counts_it_over_the_norm_of_the_rows(planted: Rows) -> None:
    rows = planted(256, 1)
    losses = []
    for weight in (0.0, 0.5):
        dictionary = jumprelu(rows)
        with torch.no_grad():
            dictionary.get_parameter("activation.threshold")[:8] = 100.0
        settings = StepSettings(
            auxk_weight=0.0, dead_after_tokens=1, l0_weight=0.0, preact_weight=weight
        )
        step = Step(dictionary, settings, lr=0.0)
        step.step(rows)
        dead = step.dead[0]
        assert set(range(8)) <= set(dead.tolist())
        assert dictionary.b_dec is not None
        lacking = preactivation_loss(dictionary, rows, dictionary.b_dec, dead, unit_rows=True)
        losses.append(step.step(rows).loss)
    more = float(lacking.detach()) / 256 / float(rows.square().sum(1).mean().sqrt())
    assert losses[1] - losses[0] == pytest.approx(0.5 * more, rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_latents_with_high_thresholds_come_back(planted: Rows, weight: float) -> None:
    rows = planted(2048, 0)
    dictionary = jumprelu(rows)
    with torch.no_grad():
        dictionary.get_parameter("activation.threshold")[:32] *= 3
    settings = StepSettings(auxk_weight=1 / 32, dead_after_tokens=2000, preact_weight=weight)
    step = Step(dictionary, settings, lr=3e-3)
    for number in range(150):
        step.set_lr(3e-3)
        figures = step.step(planted(512, 1 + number))
    if weight:
        assert figures.dead_share < 0.2
    else:
        assert figures.dead_share > 0.3


def test_other_functions_have_no_thresholds_to_lower(fresh: Callable[..., Dictionary]) -> None:
    settings = StepSettings(auxk_weight=0.0, dead_after_tokens=1, preact_weight=1e-3)
    with pytest.raises(ConfigError, match="activation=jumprelu"):
        Step(fresh(), settings, lr=1e-3)
