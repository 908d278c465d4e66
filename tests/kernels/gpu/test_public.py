"""The public functions take the Triton path, and give what the CPU paths give."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels import (
    RowSparseAdam,
    auxk_encode,
    batch_topk_encode,
    decode_residual,
    no_examples,
    sampled_dot,
    threshold_edges,
    threshold_encode,
    topk_autoencode,
    topk_edges,
    topk_encode,
    update_top_examples,
)

CALLERS = (
    *("adam", "attribution", "backward", "batch_topk", "decode", "dispatch", "edges"),
    *("encode", "examples", "threshold"),
)
SHAPES = ((6, 40), (90, 40), (90,), (90, 40), (40,))


@pytest.fixture
def triton_path(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let every dispatch believe that its tensors are on a GPU."""
    if not torch.cuda.is_available():
        for name in CALLERS:
            module = importlib.import_module(f"bathyscope_kernels.{name}")
            monkeypatch.setattr(module, "on_gpu", lambda *tensors: True)
    return monkeypatch


def inputs(oracle: SimpleNamespace, device: torch.device) -> list[Tensor]:
    return [oracle.normal(*s, seed=i).to(device) for i, s in enumerate(SHAPES)]


def step(given: list[Tensor], dead: Tensor) -> list[Tensor]:
    """One training step: its outputs and the weights after it."""
    leaves = [t.clone().requires_grad_() for t in given[1:]]
    W_enc, b_enc, W_dec, b_dec = leaves
    optimizer = RowSparseAdam([{"params": [W_dec], "unit_rows": True}, {"params": [W_enc, b_enc]}])
    found = topk_autoencode(given[0], W_enc, b_enc, W_dec, b_dec, 5, dead=dead, k_aux=3)
    assert found.error_hat is not None
    loss = (found.x_hat - given[0]).square().sum() + found.error_hat.square().sum()
    loss.backward()
    optimizer.step()
    assert b_dec.grad is not None
    return [*found[:1], *found.latents, found.error_hat, loss, b_dec.grad, W_enc, b_enc, W_dec]


def test_a_training_step_is_that_of_the_cpu(
    oracle: SimpleNamespace, device: torch.device, triton_path: pytest.MonkeyPatch
) -> None:
    given, dead = inputs(oracle, device), torch.tensor([3, 20, 21, 70], device=device)
    on_triton = [t.detach().cpu() for t in step(given, dead)]
    triton_path.undo()
    on_cpu = step([t.cpu() for t in given], dead.cpu())
    for got, wanted in zip(on_triton, on_cpu, strict=True):
        torch.testing.assert_close(got, wanted.detach(), rtol=1e-4, atol=1e-5)


def test_encodes_choose_the_same(
    oracle: SimpleNamespace, device: torch.device, triton_path: pytest.MonkeyPatch
) -> None:
    x, W, b = (t.to(device) for t in (oracle.eighths(*s, seed=3) for s in SHAPES[:3]))
    subset = torch.tensor([0, 5, 6, 7, 50, 89], device=device)
    for found in (topk_encode(x, W, b, 7), auxk_encode(x, W, b, 4, subset)):
        k = found.values.shape[1]
        chosen = (W, b) if k == 7 else (W[subset], b[subset])
        wanted = oracle.topk(x.cpu(), *(t.cpu() for t in chosen), k)
        for got, want in zip(found, wanted, strict=True):
            assert torch.equal(got.cpu().double(), want.double())


def examples(x: Tensor, W: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    state = tuple(t.to(x.device) for t in no_examples(len(W), 3))
    found = topk_encode(x, W, b, 5)
    update_top_examples(*state, found.values, found.indices, torch.arange(len(x), device=x.device))
    return state


def residual(x: Tensor, W: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    found = topk_encode(x, W, b, 5)
    # The squares are no eighths any more: their sums may differ in the last bit.
    return decode_residual(found.values, found.indices, W, b[:40], x)[:1]


def scores(x: Tensor, W: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    place = torch.arange(12, device=x.device)
    return (sampled_dot(x.view(2, 3, -1), W, place % 3, place * 7 % 90, b[:12]),)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, W, b: batch_topk_encode(x, W, b, 4, 5),
        lambda x, W, b: threshold_encode(x, W, b, 0.5 + b.abs(), bandwidth=0.25),
        lambda x, W, b: topk_edges(x, W, 6),
        lambda x, W, b: topk_edges(x, W, 6, magnitude=False),
        lambda x, W, b: threshold_edges(x, W, 1.0),
        residual,
        examples,
        scores,
    ],
)
def test_selections_and_products_are_those_of_the_cpu(
    oracle: SimpleNamespace,
    device: torch.device,
    triton_path: pytest.MonkeyPatch,
    operation: Callable[..., tuple[Tensor, ...]],
) -> None:
    # Integers / 8: sums are exact, so that every bit must agree, ties included.
    given = [oracle.eighths(*s, seed=5) for s in SHAPES[:3]]
    on_triton = operation(*(t.to(device) for t in given))
    triton_path.undo()
    for got, wanted in zip(on_triton, operation(*given), strict=True):
        assert got.dtype == wanted.dtype
        assert torch.equal(got.cpu(), wanted)
