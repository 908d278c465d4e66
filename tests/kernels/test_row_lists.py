"""Lists for training: entries, values and every gradient against dense float64 autograd."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels import auxk_error, decode_lists, topk_lists

pytestmark = pytest.mark.usefixtures("path")

ROWS, D_IN, D_OUT = 37, 12, 9
Function = Callable[[list[Tensor]], Tensor]


def inputs(oracle: SimpleNamespace, latents: int) -> list[Tensor]:
    """x, W_enc, b_enc, centre, W_dec, b_dec."""
    shapes = ((ROWS, D_IN), (latents, D_IN), (latents,), (D_IN,), (latents, D_OUT), (D_OUT,))
    return [oracle.normal(*shape, seed=i) for i, shape in enumerate(shapes)]


def gradients(function: Function, given: list[Tensor]) -> list[Tensor]:
    """The value and the gradient of each input, dense, in float64."""
    leaves = [t.clone().requires_grad_() for t in given]
    value = function(leaves)
    value.backward()
    return [value.detach().double(), *(leaf.grad.to_dense().double() for leaf in leaves)]


def chosen(pre: Tensor, floor: Tensor, k: int) -> Tensor:
    """Which entries are among the k furthest above their floor: bool [rows, latents]."""
    above = (pre - floor).detach()
    order = torch.sort(above, dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(above).scatter(1, order, 1.0).bool() & (above > 0)


# 4 latents per slot goes by matmul, 300 for 7 slots by lists.
@pytest.mark.parametrize(("latents", "k"), [(300, 7), (40, 10), (16, 16), (300, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_floor", [False, True])
def test_values_and_gradients_are_those_of_the_dense_formula(
    oracle: SimpleNamespace, latents: int, k: int, dtype: torch.dtype, with_floor: bool
) -> None:
    given = inputs(oracle, latents)
    floor = oracle.normal(latents, seed=9) if with_floor else torch.zeros(latents)
    weight = oracle.normal(ROWS, D_OUT, seed=8)

    def ours(leaves: list[Tensor]) -> Tensor:
        x, W_enc, b_enc, centre, W_dec, b_dec = leaves
        lists = topk_lists(
            x, W_enc, b_enc, k, centre=centre, floor=floor.to(dtype) if with_floor else None
        )
        x_hat = decode_lists(lists.pre.sin(), lists.indices, lists.used, W_dec, b_dec)
        return (x_hat * weight.to(dtype)).sum() + lists.pre.square().sum()

    def theirs(leaves: list[Tensor]) -> Tensor:
        x, W_enc, b_enc, centre, W_dec, b_dec = leaves
        pre = (x - centre) @ W_enc.T + b_enc
        kept = torch.where(chosen(pre, floor.double(), k), pre, 0.0)
        x_hat = kept.sin() @ W_dec + b_dec
        return (x_hat * weight.double()).sum() + kept.square().sum()

    got = gradients(ours, [t.to(dtype) for t in given])
    wanted = gradients(theirs, [t.double() for t in given])
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("latents", [200, 8])
def test_an_entry_of_value_zero_has_a_gradient_and_an_unused_slot_has_none(latents: int) -> None:
    # Row 0 uses latents 3 (value 0) and 5; its last slot is unused. Row 1 uses none.
    indices = torch.tensor([[3, 5, 0], [0, 0, 0]], dtype=torch.int32)
    used = torch.tensor([[True, True, False], [False] * 3])
    values = torch.tensor([[0.0, 2.0, 0.0], [0.0] * 3], requires_grad=True)
    W_dec = torch.arange(latents * 2.0).reshape(latents, 2).requires_grad_()
    x_hat = decode_lists(values, indices, used, W_dec)
    assert x_hat.tolist() == [[20.0, 22.0], [0.0, 0.0]]
    (x_hat * torch.tensor([1.0, 10.0])).sum().backward()
    # g . W_dec[f] with g = (1, 10): latent 3 is (6, 7), latent 5 is (10, 11).
    assert values.grad.tolist() == [[76.0, 120.0, 0.0], [0.0, 0.0, 0.0]]
    wanted = torch.zeros(latents, 2)
    wanted[5] = torch.tensor([2.0, 20.0])
    assert torch.equal(W_dec.grad.to_dense(), wanted)


def test_the_gradient_of_a_matrix_lists_the_latents_that_have_an_entry(
    oracle: SimpleNamespace,
) -> None:
    x, W_enc, b_enc, _, W_dec, _ = (t.requires_grad_() for t in inputs(oracle, 500))
    lists = topk_lists(x.detach(), W_enc, b_enc, 3)
    decode_lists(lists.pre, lists.indices, lists.used, W_dec).sum().backward()
    entries = lists.indices[lists.used].long().unique()
    for matrix in (W_enc, W_dec):
        assert matrix.grad.is_sparse
        assert torch.equal(matrix.grad._indices()[0], entries)
    assert torch.equal(b_enc.grad.nonzero().squeeze(1), entries)


def test_lists_say_whether_a_row_may_have_more() -> None:
    x, W, b = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.eye(2), torch.zeros(2)
    assert topk_lists(x, W, b, 2).are_full
    assert topk_lists(x, W, b, 1).are_full
    spare = topk_lists(x, W, b, 2, floor=torch.tensor([0.0, 1.0]))
    assert not spare.are_full, "1 is not above a floor of 1"
    assert spare.used.tolist() == [[True, False], [False, False]]
    assert (spare.pre.tolist(), spare.indices.tolist()) == ([[1.0, 0.0], [0.0, 0.0]], [[0, 0]] * 2)


def test_a_floor_below_zero_lets_negative_ones_in() -> None:
    found = topk_lists(
        torch.tensor([[-0.25, -2.0]]),
        torch.eye(2),
        torch.zeros(2),
        2,
        floor=torch.tensor([-1.0] * 2),
    )
    assert (found.pre.tolist(), found.used.tolist()) == ([[-0.25, 0.0]], [[True, False]])


def test_ties_go_to_the_smaller_latent_and_nan_stays(oracle: SimpleNamespace) -> None:
    x, W, b = torch.ones(1, 1), torch.ones(6, 1), torch.zeros(6)
    assert topk_lists(x, W, b, 3).indices.tolist() == [[0, 1, 2]]
    W[4] = torch.nan
    found = topk_lists(x, W, b, 2)
    assert (found.indices.tolist(), found.used.tolist()) == ([[4, 0]], [[True, True]])
    assert found.pre.isnan().tolist() == [[True, False]]


def test_no_rows(oracle: SimpleNamespace) -> None:
    _, W_enc, b_enc, _, W_dec, b_dec = inputs(oracle, 50)
    lists = topk_lists(torch.empty(0, D_IN), W_enc, b_enc, 2)
    assert not lists.are_full
    assert decode_lists(lists.pre, lists.indices, lists.used, W_dec, b_dec).shape == (0, D_OUT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("latents", "num_dead", "k"), [(60, 1, 5), (60, 25, 25), (600, 200, 3)])
def test_auxk_is_that_of_the_dense_formula(
    oracle: SimpleNamespace, latents: int, num_dead: int, k: int, dtype: torch.dtype
) -> None:
    x, W_enc, b_enc, centre, W_dec, _ = inputs(oracle, latents)
    dead = torch.randperm(latents, generator=torch.Generator().manual_seed(3))[:num_dead].sort()[0]
    weight = oracle.normal(ROWS, D_OUT, seed=8)

    def ours(leaves: list[Tensor]) -> Tensor:
        W_enc, b_enc, centre, W_dec = leaves
        found = auxk_error(x.to(dtype), W_enc, b_enc, W_dec, dead, k, centre=centre)
        return (found * weight.to(dtype)).sum()

    def theirs(leaves: list[Tensor]) -> Tensor:
        W_enc, b_enc, centre, W_dec = leaves
        pre = ((x.double() - centre) @ W_enc.T + b_enc)[:, dead]
        kept = torch.where(chosen(pre, torch.zeros(num_dead), k), pre, 0.0)
        return ((kept @ W_dec[dead]) * weight.double()).sum()

    given = [W_enc, b_enc, centre, W_dec]
    got = gradients(ours, [t.to(dtype) for t in given])
    for one, other in zip(got, gradients(theirs, [t.double() for t in given]), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-4)


def test_what_does_not_fit_together_is_refused(oracle: SimpleNamespace) -> None:
    x, W_enc, b_enc, centre, W_dec, b_dec = inputs(oracle, 50)
    lists = topk_lists(x, W_enc, b_enc, 2)
    with pytest.raises(ValueError, match="got k = 51, wanted 1 <= k <= 50"):
        topk_lists(x, W_enc, b_enc, 51)
    with pytest.raises(ValueError, match=r"centre \[9\], wanted \[12\]"):
        topk_lists(x, W_enc, b_enc, 2, centre=b_dec)
    with pytest.raises(ValueError, match=r"floor \[12\], wanted \[50\]"):
        topk_lists(x, W_enc, b_enc, 2, floor=centre)
    with pytest.raises(ValueError, match=r"W_enc torch.bfloat16.*convert with .float\(\)"):
        topk_lists(x, W_enc.bfloat16(), b_enc, 2)
    with pytest.raises(ValueError, match="three lists"):
        decode_lists(lists.pre, lists.indices[:, :1], lists.used, W_dec)
    with pytest.raises(ValueError, match=r"b_dec \[12\], wanted \[9\]"):
        decode_lists(lists.pre, lists.indices, lists.used, W_dec, centre)
    with pytest.raises(ValueError, match="at least one latent"):
        auxk_error(x, W_enc, b_enc, W_dec, torch.empty(0).long(), 2)
