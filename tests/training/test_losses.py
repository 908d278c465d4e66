"""The terms of the loss by hand, and who gets gradient from AuxK."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bathyscope.dictionaries.dictionary import Dictionary, topk_autoencoder
from bathyscope.dictionaries.layout import columns_of
from bathyscope.training.gradients import Gradients, Terms
from bathyscope.training.losses import Spread, by_block, fvu, unexplained
from bathyscope.training.mesh import Single
from bathyscope.training.sparsity import Sparsity


def axes(bias: list[float]) -> Dictionary:
    """Four latents over two dimensions: +x0, +x1, -x0, -x1."""
    dictionary = topk_autoencoder(d_in=2, num_latents=4, k=1, dtype=torch.float32)
    with torch.no_grad():
        rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        dictionary.W_enc.copy_(rows)
        dictionary.W_dec.copy_(rows)
        dictionary.b_enc.copy_(torch.tensor(bias))
    return dictionary


def numbers(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def terms_of(dictionary: Dictionary, x: Tensor, dead: Tensor, auxk_weight: float = 1.0) -> Terms:
    """The terms of a batch; gradients are left in the weights."""
    sparsity = Sparsity(dictionary, l0_weight=0.0, l1_weight=0.0, unit_rows=True)
    return Gradients(dictionary, sparsity, Single(), auxk_weight=auxk_weight).find(x, x, (dead,), 1)


def test_fvu_by_hand() -> None:
    # Mean (2, 1): the spread is 1 + 1 + 1 + 1; the errors are 1 and 0.25.
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    x_hat = torch.tensor([[1.0, 1.0], [2.5, 0.0]])
    assert fvu(x, x_hat).item() == pytest.approx(1.25 / 4)


def test_the_mean_of_the_batch_has_fvu_one() -> None:
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    assert fvu(x, x.mean(0).expand_as(x)).item() == pytest.approx(1.0)
    assert fvu(x, x).item() == 0.0


def test_hook_points_count_alike_whatever_their_scale() -> None:
    columns = columns_of([("a", 2), ("b", 1)])
    y = torch.tensor([[1.0, 2.0, 100.0], [3.0, 0.0, 300.0]])
    spread = Spread.of(y, columns, Single(), 2)
    assert spread.sums.tolist() == [4.0, 20000.0]
    # Errors: a 1.25 of 4, b 50^2 of 20000; then one that is right.
    wrong = torch.tensor([[1.0, 1.0, 150.0], [2.5, 0.0, 300.0]])
    found = unexplained(y, torch.stack([wrong, y]), columns, spread)
    assert found.tolist() == [[0.3125, 0.125], [0.0, 0.0]]
    assert by_block(torch.tensor([1.0, 2.0, 4.0]), columns).tolist() == [3.0, 4.0]


def test_a_spread_does_not_drown_in_a_large_mean() -> None:
    rows = 1000 + torch.tensor([[-0.5], [0.5]])
    assert Spread.of(rows, columns_of([("a", 1)]), Single(), 2).sums.tolist() == [0.5]


def test_auxk_by_hand() -> None:
    # With k 1, latent 0 takes x0 = 2 and 1; the errors (0, 1) and (0, -0.5) are left.
    # d_in // 2 = 1 dead latent per row: 1 gives (0, 1) on row 0, 3 gives (0, -0.5) on row 1.
    dictionary = axes([0.0, 0.0, 0.0, 0.0])
    x = torch.tensor([[2.0, 1.0], [1.0, -0.5]])
    assert dictionary(x).tolist() == [[2.0, 0.0], [1.0, 0.0]]
    assert terms_of(dictionary, x, numbers(1, 3)).auxk == pytest.approx(0.0)
    # Latent 1 alone leaves (0, -0.5): 0.25 of the errors' spread 2 * 0.75 ** 2 = 1.125.
    found = terms_of(dictionary, x, numbers(1), auxk_weight=0.5)
    assert found.auxk == pytest.approx(0.25 / 1.125)
    assert found.loss == pytest.approx(found.fvu + 0.5 * found.auxk)
    # Latent 2 is silent on both rows: nothing is explained, the mean error counts too.
    assert terms_of(dictionary, x, numbers(2)).auxk == pytest.approx(1.25 / 1.125)


def test_auxk_is_zero_when_nothing_is_dead() -> None:
    x = torch.tensor([[2.0, 1.0], [1.0, -0.5]])
    assert terms_of(axes([0.0] * 4), x, numbers()).auxk == 0.0


def gradients(dictionary: Dictionary, x: Tensor, dead: Tensor) -> dict[str, Tensor]:
    """What AuxK adds to the gradient of each weight."""
    found = []
    for weight in (1.0, 0.0):
        terms_of(dictionary, x, dead, weight)
        found.append({n: p.grad.to_dense() for n, p in dictionary.named_parameters()})
        dictionary.zero_grad()
    return {name: found[0][name] - found[1][name] for name in found[0]}


def test_auxk_reaches_dead_latents_only_and_never_the_reconstruction() -> None:
    torch.manual_seed(0)
    added = gradients(axes([0.1, 0.2, 0.3, 0.4]), torch.randn(20, 2), numbers(1, 3))
    for name in ("W_enc", "b_enc", "W_dec"):
        assert added[name][[1, 3]].any(), name
        assert not added[name][[0, 2]].any(), name
    # b_dec gets its share through the encoder's input: -(db_enc W_enc).
    wanted = -(added["b_enc"] @ axes([0.0] * 4).W_enc.detach())
    torch.testing.assert_close(added["b_dec"], wanted, rtol=1e-5, atol=1e-6)


def test_a_latent_that_is_below_zero_on_every_row_gets_no_gradient() -> None:
    x = torch.tensor([[2.0, 1.0], [1.0, -0.5]])
    added = gradients(axes([0.0, -100.0, 0.0, 0.0]), x, numbers(1))
    assert not any(gradient.any() for gradient in added.values())


def test_fired_counts_values_above_zero_only() -> None:
    # Row (0, 0) has no positive pre-activation: its slot holds value 0 and index 0.
    found = terms_of(axes([0.0] * 4), torch.tensor([[0.0, 3.0], [0.0, 0.0]]), numbers())
    assert found.fired[0].tolist() == [False, True, False, False]
    assert (found.l0, found.num_rows) == (0.5, 2)
