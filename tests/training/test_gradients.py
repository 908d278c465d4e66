"""The gradients of every kind against the formulas of its paper in dense float64 autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from bathyscope.dictionaries import batch_topk as batch_topk_module
from bathyscope.dictionaries import relu as relu_module
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.gated import Gated
from bathyscope.dictionaries.jumprelu import JumpReLU
from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import Columns, columns_of
from bathyscope.training import step as step_module
from bathyscope.training.gradients import Gradients, Terms, row_blocks
from bathyscope.training.initial import initialise
from bathyscope.training.mesh import Single
from bathyscope.training.sparsity import Sparsity
from bathyscope.training.step import Step, StepSettings
from bathyscope_kernels import TooManyEntries

ROWS, LATENTS, K, AUXK = 48, 60, 4, 0.3
READ = columns_of([("mlp_in.0", 10), ("mlp_in.1", 6)])
WRITTEN = columns_of([("mlp_out.0", 7), ("mlp_out.1", 9)])
ONE = columns_of([("mlp_in.0", 10)])
OTHER = columns_of([("mlp_out.0", 7)])

CASES: list[tuple[str, Columns, Columns, str, tuple[int, ...]]] = [
    ("autoencoder", ONE, ONE, "topk", ()),
    ("autoencoder", ONE, ONE, "batch_topk", ()),
    ("autoencoder", ONE, ONE, "jumprelu", ()),
    ("autoencoder", ONE, ONE, "relu", ()),
    ("autoencoder", ONE, ONE, "gated", ()),
    ("autoencoder", ONE, ONE, "batch_topk", (5, 20, 60)),
    ("autoencoder", ONE, ONE, "jumprelu", (30, 60)),
    ("transcoder", ONE, OTHER, "topk", ()),
    ("transcoder", ONE, OTHER, "jumprelu", ()),
    ("skip_transcoder", ONE, OTHER, "batch_topk", ()),
    ("skip_transcoder", ONE, OTHER, "gated", ()),
    ("crosscoder", READ, READ, "batch_topk", ()),
    ("crosscoder", READ, READ, "relu", ()),
    ("cross_layer_transcoder", READ, WRITTEN, "topk", ()),
    ("cross_layer_transcoder", READ, WRITTEN, "batch_topk", ()),
    ("cross_layer_transcoder", READ, WRITTEN, "jumprelu", ()),
    ("cross_layer_transcoder", READ, WRITTEN, "gated", ()),
]
NAMES = [f"{kind}-{activation}-{len(prefixes)}" for kind, _, _, activation, prefixes in CASES]


def made(
    kind: str, inputs: Columns, outputs: Columns, activation: str, prefixes: tuple[int, ...]
) -> tuple[AnyDictionary, Tensor, Tensor]:
    """A dictionary with weights of no particular structure, and rows."""
    dictionary = make_dictionary(
        kind, inputs, outputs, activation=activation, k=K, num_latents=LATENTS,
        options={"group_rows": 16, "bandwidth": 0.8}, prefixes=prefixes, dtype=torch.float64,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, inputs[-1].stop, generator=generator, dtype=torch.float64)
    y = torch.randn(ROWS, outputs[-1].stop, generator=generator, dtype=torch.float64)
    y = x if inputs == outputs else y + 0.5
    initialise(dictionary, x=x, y=y, mean=y.mean(0), seed=1)
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            if not name.endswith("threshold"):
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.1 * noise)
    return dictionary, x, y


def sparsity_of(dictionary: AnyDictionary) -> Sparsity:
    return Sparsity(dictionary, l0_weight=2.0, l1_weight=0.05, unit_rows=False)


def active(part: Dictionary, pre: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Dense latents, L0 per row and gates, with the gradients of the papers."""
    function = part.activation
    if isinstance(function, JumpReLU):
        theta, eps = function.threshold, function.eps
        above = (pre > theta).double().detach()
        band = ((pre - theta).abs() < eps / 2).double().detach()
        # Something with the value 0 and the gradient 1 of theta.
        move = theta - theta.detach()
        z = pre * above - (theta.detach() / eps) * band * move
        return z, (above - band / eps * move).sum(1), None
    if isinstance(function, Gated):
        opened = (pre > 0).double().detach()
        gate = pre * opened
        z = torch.relu(function.r_mag.exp() * (pre - part.b_enc) + function.b_mag) * opened
        return z, (z > 0).double().sum(1), gate
    if function.name == "topk":
        kept = torch.zeros_like(pre).scatter(1, pre.topk(K).indices, 1.0)
    elif function.name == "batch_topk":
        levels = [group.flatten().topk(K * len(group)).values[-1] for group in pre.split(16)]
        limits = torch.stack(levels).repeat_interleave(16)[:ROWS, None]
        kept = (pre >= limits).double()
    else:
        kept = torch.ones_like(pre)
    z = torch.relu(pre) * kept.detach()
    return z, (z > 0).double().sum(1), None


def by_block(total: Tensor, columns: Columns) -> Tensor:
    return torch.stack([total[:, block.columns].sum() for block in columns])


def dense_loss(
    dictionary: AnyDictionary,
    x: Tensor,
    y: Tensor,
    dead: list[Tensor],
    *,
    weight: float = 1.0,
    auxk: float = AUXK,
    pull: Tensor | None = None,
) -> Tensor:
    """The loss, written down once more from the docstrings; with Σ pull · ŷ where that is given."""
    columns = dictionary.outputs
    spread = by_block((y - y.mean(0)).square(), columns)
    prefixes = dictionary.prefixes or (dictionary.num_latents,)
    y_hats = [dictionary.b_dec.expand_as(y) for _ in prefixes]
    gate_hat, error_hat = dictionary.b_dec.detach().expand_as(y), torch.zeros_like(y)
    l0, penalty = torch.zeros(ROWS, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    gated = False
    for part, read, written, numbers in zip(
        dictionary.parts, dictionary.read_columns, dictionary.written_columns, dead, strict=True
    ):
        centre = dictionary.b_dec if dictionary.subtracts_b_dec else 0
        pre = (x[:, read] - centre) @ part.W_enc.T + part.b_enc
        z, part_l0, gate = active(part, pre)
        l0 = l0 + part_l0
        before = y.shape[1] - part.W_dec.shape[1]
        assert written.start == before
        for number, prefix in enumerate(prefixes):
            decoded = z[:, :prefix] @ part.W_dec[:prefix]
            y_hats[number] = y_hats[number] + torch.nn.functional.pad(decoded, (before, 0))
        norms = part.W_dec.norm(dim=1)
        if gate is None:
            penalty = penalty + (z * norms).sum()
        else:
            gated = True
            decoded = gate @ part.W_dec.detach()
            gate_hat = gate_hat + torch.nn.functional.pad(decoded, (before, 0))
            penalty = penalty + (gate * norms.detach()).sum()
        if len(numbers):
            best = pre[:, numbers].topk(min(part.d_in // 2, len(numbers))).indices
            chosen = torch.zeros_like(pre[:, numbers]).scatter(1, best, 1.0).detach()
            decoded = (torch.relu(pre[:, numbers]) * chosen) @ part.W_dec[numbers]
            error_hat = error_hat + torch.nn.functional.pad(decoded, (before, 0))
    W_skip = getattr(dictionary, "W_skip", None)
    if W_skip is not None:
        y_hats = [y_hat + x @ W_skip.T for y_hat in y_hats]
    fvu = [by_block((y - y_hat).square(), columns) / spread for y_hat in y_hats]
    loss = weight * torch.stack(fvu).mean()
    if pull is not None:
        loss = loss + (pull * y_hats[-1]).sum()
    if gated:
        loss = loss + (by_block((y - gate_hat).square(), columns) / spread).mean()
    error = (y - y_hats[-1]).detach()
    left = by_block((error - error_hat).square(), columns)
    loss = loss + auxk * (left / by_block((error - error.mean(0)).square(), columns)).mean()
    name = dictionary.parts[0].activation.name
    if name == "jumprelu":
        return loss + 2.0 * (l0.mean() / dictionary.k - 1).square()
    if name in ("relu", "gated"):
        return loss + 0.05 * penalty / ROWS / y.square().sum(1).mean().sqrt()
    return loss


def gradients_of(dictionary: AnyDictionary) -> dict[str, Tensor]:
    return {
        name: parameter.grad.to_dense()
        for name, parameter in dictionary.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_gradients_are_those_of_the_papers(
    case: tuple[str, Columns, Columns, str, tuple[int, ...]], passes: int
) -> None:
    dictionary, x, y = made(*case)
    if passes > 1 and not dictionary.parts[0].activation.passes:
        pytest.skip("selects over groups of rows, so all rows are gone through at once")
    dead = [torch.arange(3, 20) for _ in dictionary.parts]
    dead[-1] = torch.arange(5)
    terms = Gradients(dictionary, sparsity_of(dictionary), Single(), auxk_weight=AUXK).find(
        x, y, tuple(dead), passes
    )
    got = gradients_of(dictionary)
    reference = copy.deepcopy(dictionary)
    reference.zero_grad()
    loss = dense_loss(reference, x, y, dead)
    loss.backward()
    wanted = gradients_of(reference)
    assert terms.loss == pytest.approx(loss.item(), rel=1e-9)
    assert set(got) == set(wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_gradient_of_a_loss_outside_is_followed_into_the_weights(
    case: tuple[str, Columns, Columns, str, tuple[int, ...]], passes: int
) -> None:
    dictionary, x, y = made(*case)
    if passes > 1 and not dictionary.parts[0].activation.passes:
        pytest.skip("selects over groups of rows, so all rows are gone through at once")
    none = [torch.arange(0) for _ in dictionary.parts]
    pull = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = Gradients(
        dictionary, sparsity_of(dictionary), Single(), auxk_weight=0.0, reconstruction_weight=0.25
    )
    y_hat = gradients.reconstruct(x, passes)
    terms = gradients.find(x, y, tuple(none), passes, pull)
    got = gradients_of(dictionary)
    reference = copy.deepcopy(dictionary)
    reference.zero_grad()
    loss = dense_loss(reference, x, y, none, weight=0.25, auxk=0.0, pull=pull)
    loss.backward()
    assert terms.loss == pytest.approx((loss - (pull * y_hat).sum()).item(), rel=1e-9)
    for name, gradient in gradients_of(reference).items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


def test_a_batch_with_too_many_active_latents_is_gone_through_in_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dictionary, x, _ = made("autoencoder", ONE, ONE, "relu", ())
    asked: list[int] = []

    class Noted(Gradients):
        def find(
            self,
            x: Tensor,
            y: Tensor,
            dead: tuple[Tensor, ...],
            passes: int,
            pull: Tensor | None = None,
        ) -> Terms:
            asked.append(passes)
            return super().find(x, y, dead, passes, pull)

    monkeypatch.setattr(step_module, "Gradients", Noted)
    step = Step(dictionary, StepSettings(auxk_weight=0.0, dead_after_tokens=10**6), lr=1e-3)
    twin, _, _ = made("autoencoder", ONE, ONE, "relu", ())
    whole = Step(twin, StepSettings(auxk_weight=0.0, dead_after_tokens=10**6), lr=1e-3).step(x)
    # About 20 of 60 latents are active in each of 48 rows: a quarter of them fits.
    monkeypatch.setattr(relu_module, "MOST_ENTRIES", int(whole.l0 * ROWS / 3))
    assert step.step(x) == pytest.approx(whole, rel=1e-9)
    assert asked == [1, 1, 2, 4], "once for the twin"


def test_what_needs_all_rows_at_once_is_refused_where_they_have_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dictionary, x, _ = made("autoencoder", ONE, ONE, "batch_topk", ())
    monkeypatch.setattr(batch_topk_module, "MOST_ENTRIES", 10)
    step = Step(dictionary, StepSettings(auxk_weight=0.0, dead_after_tokens=10**6), lr=1e-3)
    with pytest.raises(TooManyEntries, match="more than 10"):
        step.step(x)


@pytest.mark.parametrize(
    ("rows", "passes", "sizes"), [(10, 3, [4, 4, 2]), (1, 4, [1]), (4, 1, [4])]
)
def test_rows_of_passes(rows: int, passes: int, sizes: list[int]) -> None:
    assert [block.stop - block.start for block in row_blocks(rows, passes)] == sizes
