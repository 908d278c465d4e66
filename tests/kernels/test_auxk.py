"""AuxK encode: TopK among a subset, with gradients in the full shape."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from bathyscope_kernels import auxk_encode, sparse_decode

pytestmark = pytest.mark.usefixtures("path")


def some_latents(total: int, size: int) -> torch.Tensor:
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(9))[:size]
    return chosen.sort().values


@pytest.mark.parametrize("workspace_bytes", [2**14, 2**26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("rows", "latents", "size", "k"),
    [(1, 1, 1, 1), (63, 65, 65, 7), (65, 1000, 63, 63), (65, 1000, 300, 11), (7, 1000, 63, 100)],
)
def test_selection_equals_topk_of_the_subset(
    oracle: SimpleNamespace,
    rows: int,
    latents: int,
    size: int,
    k: int,
    dtype: torch.dtype,
    workspace_bytes: int,
) -> None:
    x, W = oracle.eighths(rows, 5, seed=0).to(dtype), oracle.eighths(latents, 5, seed=1).to(dtype)
    b = oracle.eighths(latents, seed=2).to(dtype)
    subset = some_latents(latents, size)
    encoded = auxk_encode(x, W, b, k, subset, workspace_bytes=workspace_bytes)
    values, indices, count = oracle.topk(x, W[subset], b[subset], min(k, size))
    assert torch.equal(encoded.values.double(), values)
    assert torch.equal(encoded.indices.long(), indices)
    assert encoded.indices.dtype == torch.int32
    assert torch.equal(encoded.count.long(), count)


@pytest.mark.parametrize("k", [2, 9, 40])
@pytest.mark.parametrize("workspace_bytes", [2**14, 2**26])
def test_gradients_reach_the_subset_only(
    oracle: SimpleNamespace, k: int, workspace_bytes: int
) -> None:
    x, W = oracle.normal(65, 6, seed=0).double(), oracle.normal(90, 6, seed=1).double()
    inputs = [t.requires_grad_() for t in (x, W, oracle.normal(90, seed=2).double())]
    subset = some_latents(90, 30)
    width = min(k, 30)
    weight = oracle.normal(65, width, seed=3).double()
    dense = torch.relu((inputs[0] @ inputs[1].T + inputs[2])[:, subset].topk(width).values)
    expected = torch.autograd.grad((dense * weight).sum(), inputs)

    encoded = auxk_encode(*inputs, k, subset, workspace_bytes=workspace_bytes)
    grads = torch.autograd.grad((encoded.values * weight).sum(), inputs)
    for grad, wanted in zip(grads, expected, strict=True):
        assert grad.shape == wanted.shape
        torch.testing.assert_close(grad, wanted, rtol=1e-12, atol=1e-12)
    outside = torch.ones(90, dtype=torch.bool).index_fill(0, subset, False)
    assert not grads[1][outside].any()
    assert not grads[2][outside].any()


@pytest.mark.parametrize("k", [1, 4])
def test_gradcheck(oracle: SimpleNamespace, k: int) -> None:
    x, W = oracle.normal(3, 4, seed=0).double(), oracle.normal(12, 4, seed=1).double()
    inputs = [t.requires_grad_() for t in (x, W, oracle.normal(12, seed=2).double())]
    subset = torch.tensor([0, 3, 4, 7, 8, 11])
    assert torch.autograd.gradcheck(lambda *args: auxk_encode(*args, k, subset).values, inputs)


def test_the_auxiliary_loss_equals_dense_autograd(oracle: SimpleNamespace) -> None:
    # e_hat decodes the relu of the k largest dead pre-activations, as in the training loss.
    x, e = oracle.normal(65, 12, seed=0).double(), oracle.normal(65, 12, seed=1).double()
    shapes = [(80, 12), (80,), (80, 12)]
    params = [oracle.normal(*s, seed=i).double().requires_grad_() for i, s in enumerate(shapes)]
    dead = torch.zeros(80, dtype=torch.bool)
    dead[some_latents(80, 17)] = True
    W_enc, b_enc, W_dec = params

    values, indices = (x @ W_enc.T + b_enc).masked_fill(~dead, -torch.inf).topk(6)
    acts = torch.zeros(65, 80, dtype=torch.float64).scatter(1, indices, torch.relu(values))
    expected = torch.autograd.grad((e - acts @ W_dec).square().sum(), params)

    subset = dead.nonzero().squeeze(1)
    encoded = auxk_encode(x, W_enc, b_enc, 6, subset)
    e_hat = sparse_decode(encoded.values, encoded.indices, W_dec[subset])
    grads = torch.autograd.grad((e - e_hat).square().sum(), params)
    for grad, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_subset_is_zero_wide(dtype: torch.dtype) -> None:
    x, W = torch.ones(3, 2, dtype=dtype), torch.ones(5, 2, dtype=dtype, requires_grad=True)
    b = torch.ones(5, dtype=dtype, requires_grad=True)
    encoded = auxk_encode(x, W, b, 4, torch.zeros(0, dtype=torch.int64))
    assert encoded.values.shape == encoded.indices.shape == (3, 0)
    assert encoded.values.dtype == torch.float32
    assert encoded.count.tolist() == [0, 0, 0]
    grads = torch.autograd.grad(encoded.values.sum(), [W, b])
    assert not grads[0].any()
    assert not grads[1].any()


def test_zero_rows_are_allowed() -> None:
    encoded = auxk_encode(torch.zeros(0, 2), torch.ones(5, 2), torch.ones(5), 3, torch.arange(4))
    assert encoded.values.shape == (0, 3)
    assert encoded.count.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [8, 400])
def test_the_workspace_is_bounded(
    oracle: SimpleNamespace,
    peak_bytes: Callable[[Callable[[], object]], int],
    dtype: torch.dtype,
    k: int,
) -> None:
    rows, d, latents, workspace_bytes = 300, 200, 4000, 2**19
    x, W = oracle.normal(rows, d, seed=0).to(dtype), oracle.normal(latents, d, seed=1).to(dtype)
    x, W = x.requires_grad_(), W.requires_grad_()
    b = torch.zeros(latents, dtype=dtype)
    subset = some_latents(latents, 1500)

    def forward() -> torch.Tensor:
        return auxk_encode(x, W, b, k, subset, workspace_bytes=workspace_bytes)

    assert peak_bytes(forward) <= workspace_bytes + rows * (8 * k + 4)
    values = forward().values
    grad = torch.ones_like(values)

    def backward() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(values, [x, W], grad)

    # Beside the gradients, the one of the subset before it is spread to the full shape.
    lists = rows * k * (6 * 8)
    gradients = 2 * x.nbytes + 2 * W.nbytes
    assert peak_bytes(backward) <= workspace_bytes + lists + gradients


def test_wrong_arguments_are_refused() -> None:
    x, W, b = torch.ones(2, 3), torch.ones(5, 3), torch.ones(5)
    with pytest.raises(ValueError, match="k = 0, wanted k >= 1"):
        auxk_encode(x, W, b, 0, torch.arange(2))
    for wrong in (torch.arange(2).int(), torch.ones(5, dtype=torch.bool), torch.zeros(1, 1).long()):
        with pytest.raises(ValueError, match="a mask becomes one"):
            auxk_encode(x, W, b, 1, wrong)
    for wrong in ([1, 1], [2, 1]):
        with pytest.raises(ValueError, match="strictly ascending"):
            auxk_encode(x, W, b, 1, torch.tensor(wrong))
    for wrong in ([-1, 2], [3, 5]):
        with pytest.raises(ValueError, match="wanted 0 to 4"):
            auxk_encode(x, W, b, 1, torch.tensor(wrong))
    with pytest.raises(ValueError, match="transpose it"):
        auxk_encode(x, W.T, b, 1, torch.arange(2))
