"""The compiled encode: exact by bfloat16 scores with a margin, whatever the scale of the inputs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bathyscope_kernels.cpu import encode as cpu
from bathyscope_kernels.cpu.library import library
from bathyscope_kernels.workspace import WORKSPACE_BYTES

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler here")


def encode(
    x: Tensor, W: Tensor, b: Tensor, k: int, *, rounded: bool = True, workspace: int = 2**22
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return cpu.topk_encode(x, W, b, None, k, workspace_bytes=workspace, rounded=rounded)


def assert_exact(x: Tensor, W: Tensor, b: Tensor, k: int, *, rounded: bool) -> Tensor:
    """Right outside float32 rounding of the scores; returns the rows that were left undone."""
    values, indices, count, undone = encode(x, W, b, k, rounded=rounded)
    exact = torch.relu(x.double() @ W.double().T + b.double())
    done = torch.ones(len(x), dtype=torch.bool)
    done[undone] = False
    rounding = 4 * 2.0**-24 * x.shape[1] ** 0.5
    eps = rounding * x.double().norm(dim=1) * W.double().norm(dim=1).max() + b.abs().max() * 2**-22
    wanted = exact.sort(dim=1, descending=True).values[:, :k]
    got = exact.gather(1, indices.long()).masked_fill(values <= 0, 0)
    torch.testing.assert_close(values.double()[done], got[done], rtol=1e-4, atol=float(eps.max()))
    assert ((wanted - got).abs() <= 2 * eps[:, None])[done].all()
    assert (count == (values > 0).sum(1))[done].all()
    for row in done.nonzero().flatten().tolist():
        chosen = indices[row, : count[row]]
        assert len(chosen.unique()) == len(chosen)
    return undone


@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize(
    ("rows", "d", "latents", "k"),
    [(1, 64, 300, 1), (63, 65, 1000, 16), (130, 576, 5000, 32), (600, 33, 700, 40)],
)
def test_the_choice_is_that_of_float64_outside_rounding(
    oracle: SimpleNamespace, rows: int, d: int, latents: int, k: int, rounded: bool
) -> None:
    x, W = oracle.normal(rows, d, seed=0), oracle.normal(latents, d, seed=1)
    undone = assert_exact(x, W, oracle.normal(latents, seed=2), k, rounded=rounded)
    assert len(undone) == 0


@pytest.mark.parametrize("rounded", [True, False])
def test_ties_go_to_the_smaller_index(oracle: SimpleNamespace, rounded: bool) -> None:
    x, W = oracle.eighths(70, 16, seed=0), oracle.eighths(900, 16, seed=1)
    W[400:800] = W[:400]
    b = oracle.eighths(900, seed=2)
    values, indices, count, undone = encode(x, W, b, 12, rounded=rounded)
    done = torch.ones(70, dtype=torch.bool)
    done[undone] = False
    assert done.sum() > 50
    for got, wanted in zip((values, indices, count), oracle.topk(x, W, b, 12), strict=True):
        assert torch.equal(got[done].double(), wanted[done].double())


@given(
    seed=st.integers(0, 2**31), scale_x=st.floats(-8, 8), scale_w=st.floats(-8, 8),
    spread=st.floats(0, 4), bias=st.floats(-3, 3),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_the_margin_holds_at_any_scale(
    seed: int, scale_x: float, scale_w: float, spread: float, bias: float
) -> None:
    # Heavy tails along d, and norms of rows and latents that differ by orders of magnitude.
    generator = torch.Generator().manual_seed(seed)

    def heavy(*shape: int) -> Tensor:
        normal = torch.randn(*shape, generator=generator)
        return normal * torch.exp(spread * torch.randn(shape[0], 1, generator=generator) / 2)

    x = heavy(20, 96) * 10**scale_x
    x[:, ::17] *= 30
    W = heavy(400, 96) * 10**scale_w
    b = torch.randn(400, generator=generator) * 10 ** (scale_x + scale_w + bias)
    assert_exact(x, W, b, 10, rounded=True)


def test_opposite_products_cancel_and_the_margin_covers_what_is_left() -> None:
    # Every score is the small difference of two large halves: relative errors would mislead.
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(64, 128, generator=generator)
    x = torch.cat([half, -half * (1 + 1e-3 * torch.randn(64, 128, generator=generator))], 1)
    side = torch.randn(2000, 128, generator=generator)
    W = torch.cat([side, side], 1)
    _, indices, _, undone = encode(x, W, torch.zeros(2000), 8)
    exact = x.double() @ W.double().T
    # So wide a margin keeps more columns than there is room for: such rows are reported.
    done = torch.ones(64, dtype=torch.bool)
    done[undone] = False
    wanted = exact.sort(dim=1, descending=True).values[:, :8]
    got = exact.gather(1, indices.long())
    assert ((wanted - got).abs()[done] < 1e-3).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e38])
def test_rows_beyond_the_margin_are_reported(oracle: SimpleNamespace, bad: float) -> None:
    x, W = oracle.normal(9, 64, seed=0), oracle.normal(400, 64, seed=1)
    x[4, 3] = bad
    assert encode(x, W, torch.zeros(400), 5)[3].tolist() == [4]
    x[4, 3] = 0
    W[7, 7] = bad
    assert len(encode(x, W, torch.zeros(400), 5)[3]) == 9


@pytest.mark.parametrize("rounded", [True, False])
def test_too_many_ties_are_reported(rounded: bool) -> None:
    x, W = torch.ones(3, 32), torch.ones(2000, 32)
    x[1] = -1
    assert encode(x, W, torch.zeros(2000), 4, rounded=rounded)[3].tolist() == [0, 2]


@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_sorted_columns_lose_nothing(rounded: bool, order: str) -> None:
    # Column l scores l + 1 or the reverse: every later column beats all before it.
    x = torch.ones(5, 1)
    W = torch.arange(1, 9001).float()[:, None] / 8
    if order == "descending":
        W = W.flip(0)
    values, indices, _, undone = encode(x, W.contiguous(), torch.zeros(9000), 6, rounded=rounded)
    top = list(range(8999, 8993, -1)) if order == "ascending" else list(range(6))
    done = torch.ones(5, dtype=torch.bool)
    done[undone] = False
    assert all(row == top for row in indices[done].tolist())
    assert (values[done] == torch.arange(9000, 8994, -1) / 8).all()


@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("rule", [cpu.Rule.MAGNITUDE, cpu.Rule.ALL])
@pytest.mark.parametrize(("rows", "columns", "k"), [(70, 900, 12), (3, 33, 33), (200, 5001, 40)])
def test_magnitudes_and_signed_scores_compete(
    oracle: SimpleNamespace, rows: int, columns: int, k: int, rule: cpu.Rule, rounded: bool
) -> None:
    x, W = oracle.eighths(rows, 16, seed=0), oracle.eighths(columns, 16, seed=1)
    if rule == cpu.Rule.ALL:
        W = -W.abs() * (x.mean() + 1)
        x = x.abs()  # nothing is above zero
    values, indices, count, undone = cpu.topk_encode(
        x, W, torch.zeros(columns), None, k, workspace_bytes=2**22, rounded=rounded, rule=rule
    )
    exact = x.double() @ W.double().T
    strength = exact.abs() if rule == cpu.Rule.MAGNITUDE else exact
    order = torch.sort(strength, dim=1, descending=True, stable=True).indices[:, :k]
    wanted = exact.gather(1, order)
    done = torch.ones(rows, dtype=torch.bool)
    done[undone] = False
    assert done.sum() > rows // 2
    if rule == cpu.Rule.MAGNITUDE:
        order = order.masked_fill(wanted == 0, 0)
        assert torch.equal(count[done].long(), (wanted != 0).sum(1)[done])
        assert torch.equal(indices[done].long(), order[done])
        assert torch.equal(values[done].double(), wanted[done])
    else:
        assert (count[done] == k).all()
        torch.testing.assert_close(values[done].double(), wanted[done], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("columns", "k"), [(1, 1), (65, 7), (819, 288), (300, 300)])
def test_the_largest_stay_in_place(oracle: SimpleNamespace, columns: int, k: int) -> None:
    scores = oracle.eighths(63, columns, seed=0)
    scores[0, :3], scores[1], scores[2] = torch.nan, -1, 1
    scores[3] = -torch.inf
    order = torch.sort(scores.nan_to_num(nan=torch.inf), dim=1, descending=True, stable=True)
    keep = torch.zeros_like(scores, dtype=torch.bool).scatter(1, order.indices[:, :k], True)
    wanted = scores.masked_fill(~keep | (scores <= 0), 0)
    found = cpu.keep_largest(scores.clone(), k)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


def test_small_workspaces_give_the_same(oracle: SimpleNamespace) -> None:
    x, W, b = oracle.normal(700, 96, seed=0), oracle.normal(3000, 96, seed=1), torch.zeros(3000)
    for rounded in (True, False):
        large = encode(x, W, b, 9, rounded=rounded, workspace=WORKSPACE_BYTES)
        small = encode(x, W, b, 9, rounded=rounded, workspace=2**18)
        assert torch.equal(large[1], small[1])
        torch.testing.assert_close(large[0], small[0], rtol=1e-5, atol=1e-5)


def test_torch_sums_in_float32_here() -> None:
    assert cpu.sums_in_float32()
