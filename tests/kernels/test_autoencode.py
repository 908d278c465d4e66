"""Encode and decode for training: values and every gradient against dense float64 autograd."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels import Autoencoded, topk_autoencode

pytestmark = pytest.mark.usefixtures("path")

NAMES = ("x", "W_enc", "b_enc", "W_dec", "b_dec")


def inputs(oracle: SimpleNamespace, rows: int, d: int, latents: int) -> list[Tensor]:
    shapes = ((rows, d), (latents, d), (latents,), (latents, d), (d,))
    return [oracle.normal(*shape, seed=i) for i, shape in enumerate(shapes)]


def dense(given: list[Tensor], k: int, dead: Tensor | None, k_aux: int) -> Autoencoded:
    """The plain formula, float64, with gradients."""
    x, W_enc, b_enc, W_dec, b_dec = given
    pre = torch.relu((x - b_dec) @ W_enc.T + b_enc)

    def largest(scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
        values, indices = torch.sort(scores, dim=1, descending=True, stable=True)
        return values[:, :width], indices[:, :width]

    values, indices = largest(pre, k)
    z = torch.zeros_like(pre).scatter(1, indices, values)
    error_hat = None
    if dead is not None:
        values_aux, places = largest(pre[:, dead], k_aux)
        z_aux = torch.zeros_like(pre[:, dead]).scatter(1, places, values_aux)
        error_hat = z_aux @ W_dec[dead]
    return Autoencoded(z @ W_dec + b_dec, values, error_hat)  # type: ignore[arg-type]


def gradients(
    function: Callable[[list[Tensor]], Tensor], given: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    leaves = [t.clone().requires_grad_() for t in given]
    loss = function(leaves)
    loss.backward()
    found = [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves]
    return loss.detach(), [g.to_dense() for g in found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_dead", [0, 1, 40])
@pytest.mark.parametrize(
    ("rows", "d", "latents", "k"), [(1, 1, 40, 1), (63, 65, 65, 7), (130, 17, 1000, 33)]
)
def test_values_and_gradients_are_those_of_the_dense_formula(
    oracle: SimpleNamespace,
    rows: int,
    d: int,
    latents: int,
    k: int,
    num_dead: int,
    dtype: torch.dtype,
) -> None:
    given = inputs(oracle, rows, d, latents)
    dead = torch.randperm(latents, generator=torch.Generator().manual_seed(9))[:num_dead].sort()[0]
    k_aux = min(9, num_dead)
    weight = oracle.normal(rows, d, seed=7)

    def ours(leaves: list[Tensor]) -> Tensor:
        found = topk_autoencode(*leaves, k, dead=dead, k_aux=k_aux)
        loss = (found.x_hat * weight.to(dtype)).sum() + found.latents.values.square().sum()
        return loss if found.error_hat is None else loss + found.error_hat.square().sum()

    def theirs(leaves: list[Tensor]) -> Tensor:
        found = dense(leaves, k, dead if num_dead else None, k_aux)
        loss = (found.x_hat * weight.double()).sum() + found.latents.square().sum()  # type: ignore[attr-defined]
        return loss if found.error_hat is None else loss + found.error_hat.square().sum()

    loss, got = gradients(ours, [t.to(dtype) for t in given])
    wanted_loss, wanted = gradients(theirs, [t.double() for t in given])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(loss.double(), wanted_loss, rtol=tolerance, atol=tolerance)
    for name, g, w in zip(NAMES, got, wanted, strict=True):
        error = (g.double() - w).norm() / w.norm().clamp_min(1e-12)
        assert error < tolerance, name


def test_gradients_of_the_matrices_hold_only_rows_that_were_active(oracle: SimpleNamespace) -> None:
    given = [t.requires_grad_() for t in inputs(oracle, 5, 8, 1000)]
    found = topk_autoencode(*given, 3)
    found.x_hat.sum().backward()
    active = found.latents.indices[found.latents.values > 0].unique().long()
    for weight in (given[1], given[3]):
        assert weight.grad is not None
        assert weight.grad.is_sparse
        assert torch.equal(weight.grad._indices()[0], active)
        assert weight.grad.shape == weight.shape


def test_same_inputs_give_the_same_bits(oracle: SimpleNamespace) -> None:
    given = inputs(oracle, 300, 33, 500)

    def once() -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in given]
        found = topk_autoencode(*leaves, 20, dead=torch.arange(0, 500, 3), k_aux=16)
        assert found.error_hat is not None
        (found.x_hat.square().sum() + found.error_hat.square().sum()).backward()
        return [found.x_hat, *(leaf.grad.to_dense() for leaf in leaves if leaf.grad is not None)]

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


def test_a_latent_that_is_active_on_every_row(oracle: SimpleNamespace) -> None:
    given = inputs(oracle, 400, 6, 50)
    given[2][17] = 100.0
    _, got = gradients(lambda v: topk_autoencode(*v, 2).x_hat.square().sum(), given)
    double = [t.double() for t in given]
    _, wanted = gradients(lambda v: dense(v, 2, None, 0).x_hat.square().sum(), double)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g.double(), w, rtol=1e-4, atol=1e-2)


def test_no_row_at_all(oracle: SimpleNamespace) -> None:
    given = [t.requires_grad_() for t in inputs(oracle, 0, 4, 10)]
    found = topk_autoencode(*given, 3, dead=torch.tensor([1, 2]), k_aux=2)
    assert found.x_hat.shape == (0, 4)
    found.x_hat.sum().backward()
    assert given[3].grad is not None
    assert not given[3].grad.to_dense().any()


def test_a_nan_comes_out_and_a_row_of_silence_is_the_bias(oracle: SimpleNamespace) -> None:
    x, W_enc, b_enc, W_dec, b_dec = inputs(oracle, 3, 5, 40)
    x[1, 2] = torch.nan
    x[2] = b_dec
    found = topk_autoencode(x, W_enc, -b_enc.abs() - 0.01, W_dec, b_dec, 4)
    assert found.x_hat[1].isnan().all()
    assert not found.x_hat[0].isnan().any()
    assert found.latents.count[2] == 0
    assert torch.equal(found.x_hat[2], b_dec)


def test_nothing_as_large_as_the_weights_is_made(
    oracle: SimpleNamespace, peak_bytes: Callable[[Callable[[], object]], int]
) -> None:
    latents, d, rows, k = 60_000, 64, 32, 4
    given = [t.requires_grad_() for t in inputs(oracle, rows, d, latents)]

    def step() -> object:
        found = topk_autoencode(*given, k, workspace_bytes=2**20)
        found.x_hat.sum().backward()
        return found

    # Two dense gradients would be 30 MB; lists over latents (counts, biases) are 0.2 to 0.5 MB.
    assert peak_bytes(step) < 6 * 2**20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_dec": torch.zeros(9, 4)}, "wanted W_dec like W_enc"),
        ({"b_dec": torch.zeros(5)}, r"b_dec \[4\]"),
        ({"W_dec": torch.zeros(10, 4, dtype=torch.bfloat16)}, "float32 or float64 for all"),
        ({"k": 0}, "1 <= k <= 10"),
        ({"k": 11}, "1 <= k <= 10"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {
        "x": torch.zeros(3, 4), "W_enc": torch.zeros(10, 4), "b_enc": torch.zeros(10),
        "W_dec": torch.zeros(10, 4), "b_dec": torch.zeros(4), "k": 2,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        topk_autoencode(**{**given, **change})  # type: ignore[arg-type]
