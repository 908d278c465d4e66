"""The torch custom operations: schema, fake rules, autograd and tracing, by torch's own check."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from bathyscope_kernels import sparse_decode, topk_encode

WORKSPACE = 2**20


def leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("subset", [None, [1, 4, 5, 30]])
def test_encode(oracle: SimpleNamespace, dtype: torch.dtype, subset: list[int] | None) -> None:
    x, W, b = (oracle.eighths(*s, seed=i) for i, s in enumerate([(7, 5), (33, 5), (33,)]))
    chosen = None if subset is None else torch.tensor(subset)
    arguments = (*(leaf(t, dtype) for t in (x, W, b)), chosen, 3, WORKSPACE)
    opcheck(torch.ops.bathyscope.topk_encode.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_bias", [True, False])
def test_decode(oracle: SimpleNamespace, dtype: torch.dtype, with_bias: bool) -> None:
    values, W, b = (oracle.normal(*s, seed=i) for i, s in enumerate([(7, 3), (33, 5), (5,)]))
    indices = torch.randint(33, (7, 3), dtype=torch.int32)
    bias = leaf(b, dtype) if with_bias else None
    arguments = (leaf(values, dtype), indices, leaf(W, dtype), bias, WORKSPACE)
    opcheck(torch.ops.bathyscope.sparse_decode.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("whole", [True, False])
def test_backward(oracle: SimpleNamespace, dtype: torch.dtype, whole: bool) -> None:
    grad, x, values, W = (
        oracle.normal(*s, seed=i).to(dtype) for i, s in enumerate([(7, 5), (7, 4), (7, 3), (33, 5)])
    )
    indices = torch.randint(33, (7, 3), dtype=torch.int32)
    always = torch.arange(33) % 4 == 0 if whole else None
    extra = values * 2 if whole else None
    arguments = (grad, x, values.abs(), indices, W, extra, always, whole, WORKSPACE)
    opcheck(torch.ops.bathyscope.sparse_backward.default, arguments)


@pytest.mark.parametrize("lazy", [True, False])
def test_adam(oracle: SimpleNamespace, lazy: bool) -> None:
    parameter, grad = oracle.normal(9, 4, seed=0), oracle.normal(2, 4, seed=1)
    state = (parameter, torch.zeros(9, 4), torch.zeros(9, 4))
    options = (1, 0.1, 0.9, 0.999, 1e-8, lazy, True)
    opcheck(
        torch.ops.bathyscope.row_sparse_adam.default,
        (*state, torch.tensor([2, 5]), grad, *options),
    )


def test_a_traced_autoencoder_is_the_plain_one(oracle: SimpleNamespace) -> None:
    x, W_enc, b_enc, W_dec = (
        oracle.normal(*s, seed=i) for i, s in enumerate([(9, 6), (40, 6), (40,), (40, 6)])
    )

    def loss(W_enc: Tensor, W_dec: Tensor) -> Tensor:
        found = topk_encode(x, W_enc, b_enc, 4)
        return (sparse_decode(found.values, found.indices, W_dec) - x).square().sum()

    results = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        leaves = [leaf(W_enc, torch.float32), leaf(W_dec, torch.float32)]
        value = function(*leaves)
        value.backward()
        results.append((value.detach(), *(w.grad for w in leaves)))
    for plain, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, plain)
