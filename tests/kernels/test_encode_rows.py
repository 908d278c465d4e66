"""Entries for training: which, their values, and every gradient against dense float64 autograd."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels import (
    Ragged,
    TooManyEntries,
    auxk_error,
    ragged_decode,
    rows_above,
    topk_rows,
)
from bathyscope_kernels.cpu import above as cpu_above
from bathyscope_kernels.cpu import encode as cpu_encode

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


def compare(ours: Function, theirs: Function, given: list[Tensor], dtype: torch.dtype) -> None:
    got = gradients(ours, [t.to(dtype) for t in given])
    for one, other in zip(got, gradients(theirs, [t.double() for t in given]), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-4)


def largest(pre: Tensor, k: int) -> Tensor:
    """Which entries are among the k largest positive ones of their row."""
    order = torch.sort(pre.detach(), dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(pre).scatter(1, order, 1.0).bool() & (pre > 0)


# With 4 latents per entry products go by matmul, with 300 for 7 entries by lists.
@pytest.mark.parametrize(("latents", "k"), [(300, 7), (40, 10), (16, 16), (300, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("selects", ["topk", "above", "above zero"])
def test_values_and_gradients_are_those_of_the_dense_formula(
    oracle: SimpleNamespace, latents: int, k: int, dtype: torch.dtype, selects: str
) -> None:
    floor = 2 + oracle.normal(latents, seed=9)
    weight = oracle.normal(ROWS, D_OUT, seed=8)

    def ours(leaves: list[Tensor]) -> Tensor:
        x, W_enc, b_enc, centre, W_dec, b_dec = leaves
        if selects == "topk":
            entries = topk_rows(x, W_enc, b_enc, k, centre=centre)
        else:
            given = floor.to(dtype) if selects == "above" else None
            entries = rows_above(x, W_enc, b_enc, given, centre=centre)
        values, indices, offsets = entries
        x_hat = ragged_decode(values.sin(), indices, offsets, W_dec, b_dec, row_sparse=True)
        return (x_hat * weight.to(dtype)).sum() + values.square().sum()

    def theirs(leaves: list[Tensor]) -> Tensor:
        x, W_enc, b_enc, centre, W_dec, b_dec = leaves
        pre = (x - centre) @ W_enc.T + b_enc
        limit = floor.double() if selects == "above" else 0
        chosen = largest(pre, k) if selects == "topk" else pre > limit
        kept = torch.where(chosen, pre, 0.0)
        x_hat = kept.sin() @ W_dec + b_dec
        return (x_hat * weight.double()).sum() + kept.square().sum()

    compare(ours, theirs, inputs(oracle, latents), dtype)


@pytest.mark.parametrize("latents", [200, 8])
def test_an_entry_of_value_zero_has_a_gradient(latents: int) -> None:
    # Row 0 has latents 3 (value 0) and 5, row 1 none.
    indices = torch.tensor([3, 5], dtype=torch.int32)
    offsets = torch.tensor([0, 2, 2])
    values = torch.tensor([0.0, 2.0], requires_grad=True)
    W_dec = torch.arange(latents * 2.0).reshape(latents, 2).requires_grad_()
    x_hat = ragged_decode(values, indices, offsets, W_dec, row_sparse=True)
    assert x_hat.tolist() == [[20.0, 22.0], [0.0, 0.0]]
    (x_hat * torch.tensor([1.0, 10.0])).sum().backward()
    # g . W_dec[f] with g = (1, 10): latent 3 is (6, 7), latent 5 is (10, 11).
    assert values.grad.tolist() == [76.0, 120.0]
    wanted = torch.zeros(latents, 2)
    wanted[5] = torch.tensor([2.0, 20.0])
    assert torch.equal(W_dec.grad.to_dense(), wanted)


def test_the_gradient_of_a_matrix_lists_the_latents_that_have_an_entry(
    oracle: SimpleNamespace,
) -> None:
    x, W_enc, b_enc, _, W_dec, _ = (t.requires_grad_() for t in inputs(oracle, 500))
    values, indices, offsets = topk_rows(x.detach(), W_enc, b_enc, 3)
    ragged_decode(values, indices, offsets, W_dec, row_sparse=True).sum().backward()
    entries = indices.long().unique()
    for matrix in (W_enc, W_dec):
        assert matrix.grad.is_sparse
        assert torch.equal(matrix.grad._indices()[0], entries)
    assert torch.equal(b_enc.grad.nonzero().squeeze(1), entries)


def test_what_is_above_comes_in_the_order_of_latents_and_equal_is_not_above() -> None:
    x, W, b = torch.tensor([[1.0, 2.0], [-1.0, 0.5]]), torch.eye(2), torch.zeros(2)
    found = rows_above(x, W, b)
    assert (found.values.tolist(), found.indices.tolist()) == ([1.0, 2.0, 0.5], [0, 1, 1])
    assert found.offsets.tolist() == [0, 2, 3]
    found = rows_above(x, W, b, torch.tensor([-2.0, 0.5]))
    assert (found.values.tolist(), found.indices.tolist()) == ([1.0, 2.0, -1.0], [0, 1, 0])


def test_ties_of_topk_go_to_the_smaller_latent_and_nan_stays() -> None:
    x, W, b = torch.ones(1, 1), torch.ones(6, 1), torch.zeros(6)
    assert topk_rows(x, W, b, 3).indices.tolist() == [0, 1, 2]
    W[4] = torch.nan
    found = topk_rows(x, W, b, 2)
    assert (found.indices.tolist(), found.values.isnan().tolist()) == ([4, 0], [True, False])
    assert 4 in rows_above(x, W, b, torch.full((6,), 9.0)).indices.tolist()


@pytest.mark.parametrize("rows", [0, 1, 700])
@pytest.mark.parametrize("with_floor", [False, True])
@pytest.mark.parametrize("rounded", [False, True])
def test_large_and_odd_sizes_give_the_float32_choice(
    oracle: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    rows: int,
    with_floor: bool,
    rounded: bool,
) -> None:
    # Blocks of 512 rows and several of latents; in eighths every score is exact.
    if path == "torch":
        pytest.skip("blocks are those of the compiled path")
    if rounded and not cpu_encode.rounds_scores():
        pytest.skip("no bfloat16 units here")
    monkeypatch.setattr(cpu_above, "_MIN_PRODUCTS", 0 if rounded else 2**60)
    latents, d = 1003, 40
    x, W = oracle.eighths(rows, d, seed=0), oracle.eighths(latents, d, seed=1)
    b = oracle.eighths(latents, seed=2)
    floor = 2 + oracle.eighths(latents, seed=3) if with_floor else torch.zeros(latents)
    found = rows_above(x, W, b, floor if with_floor else None, workspace_bytes=2**20)
    dense = x @ W.T + b
    wanted = torch.where(dense > floor, dense, 0.0)
    assert torch.equal(found.to_dense(latents), wanted)
    assert found.indices.numel() == int((dense > floor).sum())
    for row in range(0, rows, 50):
        assert found.row(row)[1].tolist() == sorted(found.row(row)[1].tolist())


def test_rows_that_rounding_cannot_cover_are_still_right(
    oracle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_above, "_MIN_PRODUCTS", 0)
    x, W_enc, b_enc, *_ = inputs(oracle, 100)
    x[3], x[5, 2] = 0.0, torch.nan
    found = rows_above(x, W_enc, b_enc)
    assert found.row(3)[1].tolist() == (b_enc > 0).nonzero().flatten().tolist()
    assert len(found.row(5)[1]) == 100
    assert found.row(5)[0].isnan().all()


def test_more_entries_than_are_to_be_held_are_refused(oracle: SimpleNamespace) -> None:
    x, W_enc, b_enc, *_ = inputs(oracle, 50)
    with pytest.raises(TooManyEntries, match=f"of {ROWS} rows are above their floor"):
        rows_above(x, W_enc, b_enc, most_entries=100)
    assert rows_above(x, W_enc, b_enc, most_entries=ROWS * 50).num_rows == ROWS


def test_no_rows(oracle: SimpleNamespace) -> None:
    _, W_enc, b_enc, _, W_dec, b_dec = inputs(oracle, 50)
    for entries in (
        topk_rows(torch.empty(0, D_IN), W_enc, b_enc, 2),
        rows_above(torch.empty(0, D_IN), W_enc, b_enc),
    ):
        assert entries.offsets.tolist() == [0]
        assert ragged_decode(*entries, W_dec, b_dec).shape == (0, D_OUT)


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
        kept = torch.where(largest(pre, k), pre, 0.0)
        return ((kept @ W_dec[dead]) * weight.double()).sum()

    compare(ours, theirs, [W_enc, b_enc, centre, W_dec], dtype)


def test_what_does_not_fit_together_is_refused(oracle: SimpleNamespace) -> None:
    x, W_enc, b_enc, centre, W_dec, b_dec = inputs(oracle, 50)
    with pytest.raises(ValueError, match="got k = 51, wanted 1 <= k <= 50"):
        topk_rows(x, W_enc, b_enc, 51)
    with pytest.raises(ValueError, match=r"centre \[9\], wanted \[12\]"):
        topk_rows(x, W_enc, b_enc, 2, centre=b_dec)
    with pytest.raises(ValueError, match=r"floor \[12\], wanted \[50\]"):
        rows_above(x, W_enc, b_enc, centre)
    with pytest.raises(ValueError, match=r"W_enc torch.bfloat16.*convert with .float\(\)"):
        rows_above(x, W_enc.bfloat16(), b_enc)
    with pytest.raises(ValueError, match="at least one latent"):
        auxk_error(x, W_enc, b_enc, W_dec, torch.empty(0).long(), 2)


def test_entries_are_a_ragged(oracle: SimpleNamespace) -> None:
    x, W_enc, b_enc, *_ = inputs(oracle, 50)
    found = topk_rows(x, W_enc, b_enc, 2)
    assert isinstance(found, Ragged)
    assert found.counts.max() <= 2
