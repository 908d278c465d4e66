"""Fine-tuning through a real small model: its gradient, what falls, and what stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, nll_loss

from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.errors import ConfigError, NonFiniteError
from bathyscope.evaluation.splice import Restart
from bathyscope.models.load import load_model
from bathyscope.training.fine_tune import CE, KL, FineTuning, Sequences
from bathyscope.training.initial import initialise
from bathyscope.training.step import Step, StepSettings

WIDTH, LATENTS, K, SCALE, WEIGHT = 32, 48, 4, 1.7, 0.3


@pytest.fixture(scope="module")
def tails(tiny_model: Path) -> Callable[[torch.dtype], nn.Module]:
    """The last two layers of the tiny model."""

    def load(dtype: torch.dtype) -> nn.Module:
        return load_model(str(tiny_model), dtype=dtype, layers=(2, 4), head=True).model

    return load


def batch(seed: int, dtype: torch.dtype, items: int = 5) -> Sequences:
    """Rows near a few directions; position 0 and one more are left out."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(LATENTS, WIDTH, generator=torch.Generator().manual_seed(9))
    chosen = torch.rand(items, 8, LATENTS, generator=generator).topk(3).indices
    rows = directions[chosen].sum(2) + 0.2 * torch.randn(items, 8, WIDTH, generator=generator)
    tokens = torch.randint(512, (items, 8), generator=generator)
    keep = torch.ones(items, 8, dtype=torch.bool)
    keep[:, 0] = False
    keep[2, 4] = False
    return Sequences(tokens, SCALE * rows.to(dtype), keep)


def dictionary_of(activation: str, dtype: torch.dtype) -> Dictionary:
    columns = columns_of([("resid_post.1", WIDTH)])
    made = make_dictionary(
        "autoencoder", columns, columns, activation=activation, k=K, num_latents=LATENTS,
        options={"group_rows": 16}, dtype=dtype,
    )  # fmt: skip
    assert isinstance(made, Dictionary)
    given = batch(0, dtype, items=20)
    x = given.activations[given.keep] / SCALE
    initialise(made, x=x, y=x, mean=x.mean(0), seed=1)
    return made


def step_of(dictionary: Dictionary, lr: float = 1e-3, **settings: float) -> Step:
    settings = {"reconstruction_weight": 0.5, **settings}
    given = StepSettings(auxk_weight=0.0, dead_after_tokens=10**9, **settings)  # type: ignore[arg-type]
    return Step(dictionary, given, lr=lr)


def tuning(step: Step, tail: nn.Module, loss: str = KL, items: int = 2) -> FineTuning:
    return FineTuning(step, Restart(tail), loss=loss, scale=SCALE, forward_items=items)


def dense_reconstruction(dictionary: Dictionary, x: Tensor) -> Tensor:
    pre = torch.relu((x - dictionary.b_dec) @ dictionary.W_enc.T + dictionary.b_enc)
    if dictionary.activation.name == "topk":
        pre = pre * torch.zeros_like(pre).scatter(1, pre.topk(K).indices, 1.0).detach()
    return pre @ dictionary.W_dec + dictionary.b_dec


@pytest.mark.parametrize("loss", [KL, CE])
@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_the_gradient_is_that_of_autograd_through_dictionary_and_model(
    tails: Callable[[torch.dtype], nn.Module], activation: str, loss: str
) -> None:
    tail = tails(torch.float64)
    dictionary = dictionary_of(activation, torch.float64)
    reference = copy.deepcopy(dictionary)
    given = batch(1, torch.float64)
    # A step of rate 0 leaves the weights, and the gradients are taken before it clears them.
    step = step_of(dictionary, lr=0.0, reconstruction_weight=WEIGHT, l1_weight=1e-12)
    found: dict[str, Tensor] = {}
    step.optimizer.register_step_pre_hook(
        lambda *_: found.update(
            (name, p.grad.to_dense().clone()) for name, p in dictionary.named_parameters()
        )
    )
    tuned = tuning(step, tail, loss)
    tuned.start(given)
    figures = tuned.step(given)

    x = given.activations[given.keep] / SCALE
    x_hat = dense_reconstruction(reference, x)
    replaced = given.activations.clone()
    replaced[given.keep] = SCALE * x_hat
    counted = given.keep.clone()
    counted[:, -1] = False
    log_q = torch.log_softmax(Restart(tail)(given.tokens, replaced), -1)[counted]
    log_p = torch.log_softmax(Restart(tail)(given.tokens, given.activations), -1)[counted]
    kl = kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    ce = nll_loss(log_q, given.tokens.roll(-1, 1)[counted])
    fvu = (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
    value, alpha = kl if loss == KL else ce, ((1 - WEIGHT) * fvu / kl).item()
    wanted = WEIGHT * fvu + alpha * value
    wanted.backward()
    assert tuned.model_weight == pytest.approx(alpha, rel=1e-9)
    assert figures.model_loss == pytest.approx(value.item(), rel=1e-9)
    assert figures.step.loss == pytest.approx(wanted.item(), rel=1e-9)
    assert set(found) == {"W_enc", "W_dec", "b_enc", "b_dec"}
    for name, parameter in reference.named_parameters():
        # The model's norms compute in float32, whatever it is given.
        wide = parameter.grad.abs().max()
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-6 * float(wide))


def test_how_many_sequences_go_through_the_model_at_a_time_changes_nothing(
    tails: Callable[[torch.dtype], nn.Module],
) -> None:
    given = batch(1, torch.float64)
    after = []
    for items in (1, 5):
        dictionary = dictionary_of("topk", torch.float64)
        tuned = tuning(step_of(dictionary), tails(torch.float64), items=items)
        tuned.start(given)
        tuned.step(given)
        after.append(dictionary.W_dec.detach())
    torch.testing.assert_close(after[0], after[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("activation", ["topk", "batch_topk", "jumprelu", "relu"])
def test_kl_falls_at_the_same_l0_and_the_model_stays(
    tails: Callable[[torch.dtype], nn.Module], activation: str
) -> None:
    tail = tails(torch.float32)
    before = {name: tensor.clone() for name, tensor in tail.state_dict().items()}
    dictionary = dictionary_of(activation, torch.float32)
    step = step_of(dictionary, lr=3e-3, reconstruction_weight=1.0)
    batches = [batch(seed, torch.float32, items=12) for seed in range(1, 16)]

    rows = [b.activations[b.keep] / SCALE for b in batches]
    trained = [step.step(x) for _ in range(12) for x in rows]
    last_sparsity = sum(f.sparsity for f in trained[-5:]) / 5
    fine = step_of(dictionary, lr=2e-3, reconstruction_weight=0.1)
    tuned = tuning(fine, tail, items=12)
    tuned.start(batches[0], sparsity=last_sparsity)
    if activation == "relu":
        assert fine.sparsity.l1_weight == pytest.approx(step.sparsity.l1_weight, rel=0.5)
    first, _, last = ([tuned.step(b) for b in batches] for _ in range(3))
    kl = [sum(f.model_loss for f in part) for part in (first, last)]
    assert kl[1] < 0.95 * kl[0]
    l0 = [sum(f.step.l0 for f in part) / 15 for part in (first, last)]
    # That of ReLU is followed by a controller, which takes its time.
    assert l0[1] == pytest.approx(l0[0], rel={"topk": 0.0, "relu": 0.25}.get(activation, 0.05))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tail.state_dict().items())
    assert all(p.grad is None for p in tail.parameters())


def test_what_cannot_be_fine_tuned_is_refused(tails: Callable[[torch.dtype], nn.Module]) -> None:
    tail = tails(torch.float32)
    with pytest.raises(ConfigError, match="This is a gated autoencoder"):
        tuning(step_of(dictionary_of("gated", torch.float32)), tail)
    read, written = columns_of([("mlp_in.1", WIDTH)]), columns_of([("mlp_out.1", WIDTH)])
    other = make_dictionary("transcoder", read, written, activation="topk", k=1, num_latents=4)
    with pytest.raises(ConfigError, match="This is a topk transcoder"):
        tuning(step_of(other), tail)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"fine_tune\.loss is 'mse'"):
        tuning(step_of(dictionary_of("topk", torch.float32)), tail, loss="mse")


def test_reconstructions_that_change_nothing_are_told() -> None:
    tuned = FineTuning(
        step_of(dictionary_of("topk", torch.float32)),
        lambda tokens, activations: torch.zeros(*tokens.shape, 512) + 0 * activations.sum(),
        loss=KL, scale=SCALE, forward_items=2,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="change nothing that could be fine-tuned"):
        tuned.start(batch(0, torch.float32))


def test_a_loss_that_is_not_finite_leaves_the_weights(
    tails: Callable[[torch.dtype], nn.Module],
) -> None:
    dictionary = dictionary_of("topk", torch.float32)
    tuned = tuning(step_of(dictionary), tails(torch.float32))
    given = batch(0, torch.float32)
    tuned.start(given)
    before = dictionary.W_dec.detach().clone()
    given.activations[1, 3, 5] = float("nan")
    with pytest.raises(NonFiniteError, match="loss of the spliced model became nan"):
        tuned.step(given)
    assert torch.equal(dictionary.W_dec, before)
