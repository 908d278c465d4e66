"""Ragged decode against the dense product, its gradients, training steps, memory, refusals."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bathyscope_kernels import reference
from bathyscope_kernels.batch_topk import batch_topk_encode
from bathyscope_kernels.ragged import Ragged, from_positions
from bathyscope_kernels.ragged_decode import ragged_decode
from bathyscope_kernels.threshold import l0, threshold_encode


def make(oracle: SimpleNamespace, rows: int, latents: int) -> Ragged:
    """About a third of all places, some of value 0; the second row is empty."""
    kept = oracle.normal(rows, latents, seed=0) > 0.4
    kept[1:2] = False
    positions = kept.view(-1).nonzero().squeeze(1)
    values = oracle.eighths(positions.numel(), seed=1, low=-3, high=4)
    return from_positions(values, positions, num_rows=rows, num_columns=latents)


def test_a_hand_worked_decode() -> None:
    values, indices = torch.tensor([3.0, 0.5, 2.0], requires_grad=True), torch.tensor([1, 2, 0])
    offsets = torch.tensor([0, 2, 2, 3])
    W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]], requires_grad=True)
    b = torch.tensor([10.0, -4.0], requires_grad=True)
    x_hat = ragged_decode(values, indices, offsets, W, b)
    assert x_hat.tolist() == [[11, 0], [10, -4], [12, -4]]
    grad = torch.tensor([[1.0, 2.0], [50.0, 60.0], [-1.0, 4.0]])
    grads = torch.autograd.grad(x_hat, [values, W, b], grad)
    assert grads[0].tolist() == [2, 6, -1]
    assert grads[1].tolist() == [[-2, 8], [3, 6], [0.5, 1]]
    assert grads[2].tolist() == [50, 66]


@pytest.mark.parametrize("row_sparse", [False, True])
@pytest.mark.parametrize("workspace_bytes", [256, 2**26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("rows", "latents", "d"), [(1, 1, 1), (65, 63, 5), (3, 1000, 65)])
def test_exact_inputs_match_the_dense_product_bit_for_bit(
    oracle: SimpleNamespace,
    rows: int,
    latents: int,
    d: int,
    dtype: torch.dtype,
    workspace_bytes: int,
    row_sparse: bool,
) -> None:
    ragged = make(oracle, rows, latents)
    W, b = oracle.eighths(latents, d, seed=2), oracle.eighths(d, seed=3)
    inputs = [t.to(dtype).requires_grad_() for t in (ragged.values, W, b)]
    x_hat = ragged_decode(
        inputs[0], *ragged[1:], *inputs[1:], row_sparse=row_sparse, workspace_bytes=workspace_bytes
    )
    S = ragged.to_dense(latents).double()
    assert x_hat.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(x_hat.double(), S @ W.double() + b.double())

    weight = oracle.eighths(rows, d, seed=4)
    grads = torch.autograd.grad(x_hat, inputs, weight.to(x_hat.dtype))
    # Every entry gets a gradient, those of value 0 too.
    at_entries = (weight.double() @ W.double().T)[places(ragged)]
    expected = (at_entries, S.T @ weight.double(), weight.double().sum(0))
    assert grads[1].is_sparse == row_sparse
    if row_sparse:
        assert grads[1].is_coalesced()
        assert torch.equal(grads[1].indices()[0], ragged.indices.unique().long())
    for grad, wanted in zip(grads, expected, strict=True):
        assert grad.dtype == dtype
        grad = grad.to_dense() if grad.is_sparse else grad
        assert torch.equal(grad, wanted.to(dtype))


def places(ragged: Ragged) -> tuple[Tensor, Tensor]:
    rows = torch.arange(ragged.num_rows).repeat_interleave(ragged.counts)
    return rows, ragged.indices.long()


@pytest.mark.parametrize("with_bias", [True, False])
def test_gradcheck(oracle: SimpleNamespace, with_bias: bool) -> None:
    ragged = make(oracle, 4, 10)
    W, b = oracle.normal(10, 3, seed=2).double(), oracle.normal(3, seed=3).double()
    tensors = (ragged.values.double(), W, b) if with_bias else (ragged.values.double(), W)
    inputs = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(
        lambda values, *decoder: ragged_decode(values, *ragged[1:], *decoder), inputs
    )


def weights(oracle: SimpleNamespace, d: int, latents: int) -> list[Tensor]:
    shapes = [(latents, d), (latents,), (latents, d), (d,)]
    return [oracle.normal(*s, seed=i + 1).double().requires_grad_() for i, s in enumerate(shapes)]


def assert_one_step(
    loss: Tensor, dense_loss: Tensor, leaves: list[Tensor], sparse: tuple[int, ...]
) -> None:
    """One step of gradient descent, from a loss with row-sparse gradients and from a dense one."""
    torch.testing.assert_close(loss, dense_loss, rtol=1e-12, atol=0)
    # Both losses read theta, a function of what is trained.
    grads = torch.autograd.grad(loss, leaves, retain_graph=True)
    expected = torch.autograd.grad(dense_loss, leaves)
    for place, (leaf, grad, wanted) in enumerate(zip(leaves, grads, expected, strict=True)):
        assert grad.is_sparse == (place in sparse)
        stepped = torch.add(leaf.detach(), grad, alpha=-0.1)
        torch.testing.assert_close(stepped, leaf.detach() - 0.1 * wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("row_sparse", [False, True])
def test_a_step_of_batch_topk_is_the_dense_one(oracle: SimpleNamespace, row_sparse: bool) -> None:
    x, leaves = oracle.normal(65, 7, seed=0).double(), weights(oracle, 7, 90)
    W_enc, b_enc, W_dec, b_dec = leaves
    encoded = batch_topk_encode(x - b_dec, W_enc, b_enc, 3, 65, row_sparse=row_sparse)
    loss = (ragged_decode(*encoded, W_dec, b_dec, row_sparse=row_sparse) - x).square().mean()

    pre = torch.relu((x - b_dec) @ W_enc.T + b_enc)
    last = pre.detach().flatten().sort(descending=True).values[3 * 65 - 1]
    dense_loss = ((pre * (pre >= last)) @ W_dec + b_dec - x).square().mean()
    assert_one_step(loss, dense_loss, leaves, sparse=(0, 2) if row_sparse else ())


class DenseJumpReLU(torch.autograd.Function):
    """The formulas of the paper, dense: pre * (pre > theta) and the count of pre > theta."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(pre, theta)
        ctx.bandwidth = bandwidth
        return pre * (pre > theta), (pre > theta).sum(1).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_l0: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, theta = ctx.saved_tensors
        return *reference.threshold_gradients(pre, theta, ctx.bandwidth, grad, grad_l0), None


@pytest.mark.parametrize("row_sparse", [False, True])
def test_a_step_of_jumprelu_is_the_dense_one(oracle: SimpleNamespace, row_sparse: bool) -> None:
    x, leaves = oracle.normal(65, 7, seed=0).double(), weights(oracle, 7, 90)
    W_enc, b_enc, W_dec, b_dec = leaves
    log_theta = oracle.normal(90, seed=9).double().requires_grad_()
    theta, bandwidth = log_theta.exp(), 0.6
    encoded = threshold_encode(
        x - b_dec, W_enc, b_enc, theta, bandwidth=bandwidth, row_sparse=row_sparse
    )
    # The lower half of the band has entries, without which the threshold's gradient is wrong.
    assert 0 < (~encoded.active).sum() < encoded.active.sum()
    x_hat = ragged_decode(*encoded[:3], W_dec, b_dec, row_sparse=row_sparse)
    loss = (x_hat - x).square().mean() + 0.01 * l0(encoded, theta, bandwidth=bandwidth).mean()

    pre = (x - b_dec) @ W_enc.T + b_enc
    acts, counts = DenseJumpReLU.apply(pre, theta, bandwidth)
    dense_loss = (acts @ W_dec + b_dec - x).square().mean() + 0.01 * counts.mean()
    leaves = [*leaves, log_theta]
    assert_one_step(loss, dense_loss, leaves, sparse=(0, 2) if row_sparse else ())


@pytest.mark.parametrize("row_sparse", [False, True])
def test_rows_without_entries_are_the_bias(row_sparse: bool) -> None:
    values, indices = torch.zeros(0, requires_grad=True), torch.zeros(0, dtype=torch.int32)
    W, b = torch.ones(4, 3, requires_grad=True), torch.tensor([1.0, 2, 3], requires_grad=True)
    for rows in (0, 2):
        offsets = torch.zeros(rows + 1, dtype=torch.int64)
        x_hat = ragged_decode(values, indices, offsets, W, b, row_sparse=row_sparse)
        assert x_hat.tolist() == [[1, 2, 3]] * rows
        grads = torch.autograd.grad(x_hat.sum(), [values, W, b])
        assert [grad.shape for grad in grads] == [values.shape, W.shape, b.shape]
        assert not grads[1].to_dense().any()
        assert grads[2].tolist() == [rows] * 3


def test_results_repeat_bit_for_bit(oracle: SimpleNamespace) -> None:
    ragged = make(oracle, 200, 300)
    W = oracle.normal(300, 33, seed=2).requires_grad_()
    values = ragged.values.clone().requires_grad_()

    def run() -> list[Tensor]:
        x_hat = ragged_decode(values, *ragged[1:], W)
        return [x_hat, *torch.autograd.grad(x_hat.square().sum(), [values, W])]

    first = run()
    for _ in range(3):
        assert all(torch.equal(one, other) for one, other in zip(first, run(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_workspace_is_bounded(
    oracle: SimpleNamespace, peak_bytes: Callable[[Callable[[], object]], int], dtype: torch.dtype
) -> None:
    rows, latents, d, workspace_bytes = 200, 300, 512, 2**18
    ragged = make(oracle, rows, latents)
    # A [nnz, d] temporary would be 40 MB, a converted decoder 0.6 MB.
    W = oracle.normal(latents, d, seed=2).to(dtype).requires_grad_()
    values = ragged.values.clone().requires_grad_()

    def forward() -> Tensor:
        return ragged_decode(values, *ragged[1:], W, workspace_bytes=workspace_bytes)

    nnz, out = values.numel(), rows * d * 4
    assert peak_bytes(forward) <= workspace_bytes + out + nnz * 16
    x_hat = forward()
    grad = torch.ones_like(x_hat)
    peak = peak_bytes(lambda: torch.autograd.grad(x_hat, [values, W], grad))
    assert peak <= workspace_bytes + W.nbytes + nnz * 64


def test_wrong_arguments_are_refused() -> None:
    values, indices = torch.ones(3), torch.tensor([0, 4, 1])
    offsets, W, b = torch.tensor([0, 1, 3]), torch.ones(5, 2), torch.ones(2)
    with pytest.raises(ValueError, match=r"values \[2\], indices \[3\]"):
        ragged_decode(values[:2], indices, offsets, W)
    with pytest.raises(ValueError, match="transpose it"):
        ragged_decode(values, indices, offsets, W, torch.ones(5))
    with pytest.raises(ValueError, match=r"offsets of torch\.int32"):
        ragged_decode(values, indices, offsets.int(), W)
    with pytest.raises(ValueError, match=r"W_dec torch\.float64"):
        ragged_decode(values, indices, offsets, W.double(), b)
    with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]"):
        ragged_decode(values, indices, offsets, W.to("meta"))
    for row_sparse in (False, True):
        with pytest.raises(ValueError, match="indices from 0 to 4, wanted 0 to 3"):
            ragged_decode(values, indices, offsets, W[:4], row_sparse=row_sparse)
        for wrong in ([1, 2, 3], [0, 1, 2], [0, 4, 3]):
            with pytest.raises(ValueError, match="ascend from 0 to 3"):
                ragged_decode(values, indices, torch.tensor(wrong), W, row_sparse=row_sparse)
