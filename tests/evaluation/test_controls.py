"""Controls: the scale of the random dictionary is optimal, PCA explains what theory says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bathyscope.evaluation.controls import RandomDictionary, fit_components, random_dictionary

WIDTH = 12


def rows(num: int = 600, seed: int = 0) -> Tensor:
    """Rows of falling variance around a mean of 3."""
    generator = torch.Generator().manual_seed(seed)
    return 3 + torch.randn(num, WIDTH, generator=generator) * torch.linspace(2, 0.2, WIDTH)


def control(x: Tensor, *, blocks: int = 3, seed: int = 0) -> RandomDictionary:
    return random_dictionary(
        x.chunk(blocks), mean=x.float().mean(0), num_latents=48, k=4, seed=seed
    )


def error(found: RandomDictionary, x: Tensor, factor: float = 1.0) -> float:
    """Squared error with the scale multiplied by a factor."""
    changed = RandomDictionary(found.dictionary, found.mean, found.scale * factor)
    return float((x - changed.reconstruct(x)).square().sum().detach())


@pytest.mark.parametrize("factor", [0.5, 0.98, 1.02, 2.0, -1.0, 0.0])
def test_every_other_scale_is_worse(factor: float) -> None:
    x = rows()
    found = control(x)
    assert error(found, x, factor) > error(found, x)


def test_scale_is_the_least_squares_solution() -> None:
    x = rows()
    found = control(x)
    with torch.no_grad():
        y = found.dictionary(x) - found.mean
    wanted = torch.linalg.lstsq(y.reshape(-1, 1), (x - found.mean).reshape(-1, 1)).solution
    assert found.scale == pytest.approx(wanted.item(), rel=1e-4)
    assert 0 < found.scale < 1
    # Optimal scaling explains ‖Py‖²: the error is the spread less scale² · Σ y·y.
    spread = float((x - found.mean).square().sum())
    explained = found.scale**2 * float(y.square().sum())
    assert error(found, x) == pytest.approx(spread - explained, rel=1e-4)


def test_blocks_and_dtype_do_not_matter_and_the_seed_does() -> None:
    x = rows().to(torch.bfloat16)
    whole, blocks = control(x, blocks=1), control(x, blocks=7)
    assert whole.scale == pytest.approx(blocks.scale, rel=1e-6)
    assert torch.equal(whole.dictionary.W_dec, blocks.dictionary.W_dec)
    assert not torch.equal(control(x, seed=1).dictionary.W_dec, whole.dictionary.W_dec)


def test_random_directions_have_unit_norm_and_k_active() -> None:
    x = rows()
    dictionary = control(x).dictionary
    torch.testing.assert_close(dictionary.W_dec.detach().norm(dim=1), torch.ones(48))
    assert torch.equal(dictionary.W_enc, dictionary.W_dec)
    assert dictionary.encode(x).count.tolist() == [4] * len(x)


def test_rows_that_are_all_the_mean_give_scale_zero() -> None:
    x = torch.ones(10, WIDTH)
    found = control(x)
    assert found.scale == 0.0
    torch.testing.assert_close(found.reconstruct(x).detach(), x)


def test_components_explain_their_share_of_the_variance() -> None:
    x = rows(num=1000)
    found = fit_components(x.split(300), width=WIDTH, num=3)
    variances = torch.linalg.eigvalsh(torch.cov(x.T.double(), correction=0)).flip(0)
    torch.testing.assert_close(found.variances, variances[:3], rtol=1e-5, atol=1e-8)
    fvu = float((x - found.reconstruct(x)).square().sum() / (x - x.mean(0)).square().sum())
    assert fvu == pytest.approx(1 - float(variances[:3].sum() / variances.sum()), rel=1e-4)


@pytest.mark.parametrize("num", [WIDTH, WIDTH + 20])
def test_as_many_components_as_columns_give_everything_back(num: int) -> None:
    x = rows()
    found = fit_components([x], width=WIDTH, num=num)
    assert found.components.shape == (WIDTH, WIDTH)
    torch.testing.assert_close(found.reconstruct(x), x, rtol=1e-4, atol=1e-4)
