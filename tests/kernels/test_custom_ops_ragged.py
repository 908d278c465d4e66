"""Torch custom operations on ragged rows and edges: schema, fake rules, autograd and tracing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from bathyscope_kernels.attribution import sampled_dot
from bathyscope_kernels.batch_topk import batch_topk_encode
from bathyscope_kernels.edges import threshold_edges
from bathyscope_kernels.examples import no_examples
from bathyscope_kernels.ragged_decode import ragged_decode
from bathyscope_kernels.threshold import l0, threshold_encode

OPS = torch.ops.bathyscope
WORKSPACE = 2**20
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def made(
    oracle: SimpleNamespace, *shapes: tuple[int, ...], dtype: torch.dtype, leaf: bool = True
) -> list[Tensor]:
    tensors = [oracle.eighths(*shape, seed=i).to(dtype) for i, shape in enumerate(shapes)]
    return [t.requires_grad_(leaf) for t in tensors]


@DTYPES
def test_batch_topk(oracle: SimpleNamespace, dtype: torch.dtype) -> None:
    arguments = made(oracle, (7, 5), (33, 5), (33,), dtype=dtype)
    opcheck(OPS.batch_topk_encode.default, (*arguments, 3, 4, WORKSPACE))


@DTYPES
def test_threshold(oracle: SimpleNamespace, dtype: torch.dtype) -> None:
    arguments = made(oracle, (7, 5), (33, 5), (33,), (33,), dtype=dtype)
    opcheck(OPS.threshold_encode.default, (*arguments, 0.5, WORKSPACE))


@DTYPES
def test_l0(oracle: SimpleNamespace, dtype: torch.dtype) -> None:
    x, W, b, theta = made(oracle, (7, 5), (33, 5), (33,), (33,), dtype=dtype)
    encoded = threshold_encode(x, W, b, theta, bandwidth=0.5)
    lists = [t.detach() for t in encoded]
    opcheck(OPS.l0.default, (*lists, theta, 0.5))


@DTYPES
@pytest.mark.parametrize("with_bias", [True, False])
def test_ragged_decode(oracle: SimpleNamespace, dtype: torch.dtype, with_bias: bool) -> None:
    values, W, b = made(oracle, (5,), (33, 4), (4,), dtype=dtype)
    indices, offsets = torch.tensor([3, 30, 0, 3, 7], dtype=torch.int32), torch.tensor([0, 2, 2, 5])
    arguments = (values, indices, offsets, W, b if with_bias else None, WORKSPACE)
    opcheck(OPS.ragged_decode.default, arguments)


@DTYPES
@pytest.mark.parametrize("magnitude", [True, False])
def test_edges(oracle: SimpleNamespace, dtype: torch.dtype, magnitude: bool) -> None:
    targets, sources = made(oracle, (7, 5), (33, 5), dtype=dtype, leaf=False)
    opcheck(OPS.topk_edges.default, (targets, sources, 3, magnitude, WORKSPACE))
    # 1000: not one edge.
    for threshold in (0.5, 1000.0):
        opcheck(OPS.threshold_edges.default, (targets, sources, threshold, magnitude, WORKSPACE))


@DTYPES
def test_sampled_dot(oracle: SimpleNamespace, dtype: torch.dtype) -> None:
    gradients, W, scale = made(oracle, (3, 7, 5), (33, 5), (4,), dtype=dtype, leaf=False)
    lists = torch.tensor([2, 0, 6, 2]), torch.tensor([0, 32, 5, 1])
    for activations in (None, scale):
        opcheck(OPS.sampled_dot.default, (gradients, W, *lists, activations, WORKSPACE))


@DTYPES
def test_update_top_examples(oracle: SimpleNamespace, dtype: torch.dtype) -> None:
    (values,) = made(oracle, (4, 2), dtype=dtype, leaf=False)
    indices = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2]], dtype=torch.int32)
    opcheck(
        OPS.update_top_examples.default,
        (*no_examples(3, 2), values.abs(), indices, torch.arange(4)),
    )


@DTYPES
def test_the_operations_of_the_backward_passes(oracle: SimpleNamespace, dtype: torch.dtype) -> None:
    x, W, b, theta = made(oracle, (7, 5), (33, 5), (33,), (33,), dtype=dtype, leaf=False)
    encoded = threshold_encode(x, W, b, theta, bandwidth=0.5)
    values, indices, offsets, _ = encoded
    grad = torch.ones_like(values)
    for wanted in ([True, True, True], [False, True, False]):
        opcheck(
            OPS.ragged_encoder_backward.default,
            (grad, indices, offsets, x, W, b, wanted, WORKSPACE),
        )
        arguments = (x, values, indices, offsets, W, wanted[1:], WORKSPACE)
        opcheck(OPS.ragged_decode_backward.default, arguments)
    opcheck(OPS.band_sum.default, (grad, *encoded, theta, 0.5))


def compiled_and_plain(function: Callable[..., Tensor], leaves: list[Tensor]) -> None:
    """Compare values and gradients of a function with those of its traced graph."""
    results = []
    for way in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        value = way(*leaves)
        results.append((value.detach(), *torch.autograd.grad(value, leaves)))
    for plain, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, plain)


@pytest.mark.parametrize("kind", ["batch_topk", "jumprelu"])
def test_a_traced_autoencoder_is_the_plain_one(oracle: SimpleNamespace, kind: str) -> None:
    shapes = [(9, 6), (40, 6), (40,), (40, 6), (6,), (40,)]
    x, *leaves = made(oracle, *shapes, dtype=torch.float64)

    def loss(W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, theta: Tensor) -> Tensor:
        if kind == "batch_topk":
            found = batch_topk_encode(x, W_enc, b_enc, 4, 5)
            penalty = 0 * theta.sum()
        else:
            encoded = threshold_encode(x, W_enc, b_enc, theta, bandwidth=0.5)
            found, penalty = encoded, l0(encoded, theta, bandwidth=0.5).sum()
        x_hat = ragged_decode(*found[:3], W_dec, b_dec)
        return (x_hat - x).square().sum() + penalty

    compiled_and_plain(loss, leaves)


def test_public_functions_are_traced(oracle: SimpleNamespace) -> None:
    # The inputs ask for gradients, which these functions do not give.
    T, S, gradients = made(oracle, (7, 5), (33, 5), (3, 7, 5), dtype=torch.float32)
    places = torch.tensor([2, 0, 6])

    def both(T: Tensor, S: Tensor) -> tuple[Tensor, ...]:
        return *threshold_edges(T, S, 0.5), sampled_dot(gradients, S, places, places)

    traced = torch.compile(both, backend="aot_eager", fullgraph=True)
    for one, other in zip(traced(T, S), both(T, S), strict=True):
        assert torch.equal(one, other)
