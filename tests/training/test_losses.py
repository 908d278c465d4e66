"""The two terms of the loss by hand, and who gets gradient from AuxK."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bathyscope.dictionaries.topk import TopK
from bathyscope.training.losses import autoencode, auxk, fired, fvu
from bathyscope_kernels import Encoded


def axes(bias: list[float]) -> TopK:
    """Four latents over two dimensions: +x0, +x1, -x0, -x1."""
    dictionary = TopK(d_in=2, num_latents=4, k=1, dtype=torch.float32)
    with torch.no_grad():
        rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        dictionary.W_enc.copy_(rows)
        dictionary.W_dec.copy_(rows)
        dictionary.b_enc.copy_(torch.tensor(bias))
    return dictionary


def numbers(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def auxk_of(dictionary: TopK, x: Tensor, dead: Tensor) -> Tensor:
    x_hat, _, error_hat = autoencode(dictionary, x, dead)
    return auxk(x, x_hat, error_hat)


def test_fvu_by_hand() -> None:
    # Mean (2, 1): the spread is 1 + 1 + 1 + 1; the errors are 1 and 0.25.
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    x_hat = torch.tensor([[1.0, 1.0], [2.5, 0.0]])
    assert fvu(x, x_hat).item() == pytest.approx(1.25 / 4)


def test_the_mean_of_the_batch_has_fvu_one() -> None:
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    assert fvu(x, x.mean(0).expand_as(x)).item() == pytest.approx(1.0)
    assert fvu(x, x).item() == 0.0


def test_auxk_by_hand() -> None:
    # With k 1, latent 0 takes x0 = 2 and 1; the errors (0, 1) and (0, -0.5) are left.
    # d_in // 2 = 1 dead latent per row: 1 gives (0, 1) on row 0, 3 gives (0, -0.5) on row 1.
    dictionary = axes([0.0, 0.0, 0.0, 0.0])
    x = torch.tensor([[2.0, 1.0], [1.0, -0.5]])
    x_hat, _, _ = autoencode(dictionary, x, numbers())
    assert x_hat.tolist() == [[2.0, 0.0], [1.0, 0.0]]
    assert auxk_of(dictionary, x, numbers(1, 3)).item() == pytest.approx(0.0)
    # Latent 1 alone leaves (0, -0.5): 0.25 of the errors' spread 2 * 0.75 ** 2 = 1.125.
    assert auxk_of(dictionary, x, numbers(1)).item() == pytest.approx(0.25 / 1.125)
    # Latent 2 is silent on both rows: nothing is explained, the mean error counts too.
    assert auxk_of(dictionary, x, numbers(2)).item() == pytest.approx(1.25 / 1.125)


def test_auxk_is_zero_when_nothing_is_dead() -> None:
    dictionary = axes([0.0] * 4)
    x = torch.tensor([[2.0, 1.0], [1.0, -0.5]])
    assert auxk_of(dictionary, x, numbers()).item() == 0.0


def test_auxk_reaches_dead_latents_only_and_never_the_reconstruction() -> None:
    torch.manual_seed(0)
    dictionary = axes([0.1, 0.2, 0.3, 0.4])
    x = torch.randn(20, 2)
    auxk_of(dictionary, x, numbers(1, 3)).backward()
    for name in ("W_enc", "b_enc", "W_dec"):
        gradient = getattr(dictionary, name).grad.to_dense()
        assert gradient[[1, 3]].any(), name
        assert not gradient[[0, 2]].any(), name
    assert dictionary.b_dec.grad is not None


def test_a_latent_that_is_below_zero_on_every_row_gets_no_gradient() -> None:
    dictionary = axes([0.0, -100.0, 0.0, 0.0])
    x = torch.tensor([[2.0, 1.0], [1.0, -0.5]])
    auxk_of(dictionary, x, numbers(1)).backward()
    assert not any(p.grad is not None and p.grad.to_dense().any() for p in dictionary.parameters())


def test_fired_counts_values_above_zero_only() -> None:
    # Slots past the count hold value 0 and index 0, which is no firing of latent 0.
    latents = Encoded(
        torch.tensor([[3.0, 1.0], [2.0, 0.0]]),
        torch.tensor([[4, 1], [1, 0]], dtype=torch.int32),
        torch.tensor([2, 1], dtype=torch.int32),
    )
    assert fired(latents, 6).tolist() == [False, True, False, False, True, False]
