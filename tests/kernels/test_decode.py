"""Sparse decode by both paths: values, gradients, memory, refusals."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from bathyscope_kernels import decode_residual, reference, sparse_decode
from bathyscope_kernels.dispatch import MIN_LATENTS_PER_ACTIVE, use_dense

pytestmark = pytest.mark.usefixtures("path")

# Per path: rows, latents, k, d_out.
GATHERED = [(1, 1000, 1, 1), (63, 65, 3, 65), (65, 1000, 33, 7), (1000, 63, 2, 5)]
MULTIPLIED = [(1, 1, 1, 1), (65, 63, 63, 3), (63, 65, 20, 65), (1000, 5, 3, 2)]


def test_density_alone_chooses_the_path() -> None:
    assert all(not use_dense(latents, k) for _, latents, k, _ in GATHERED)
    assert all(use_dense(latents, k) for _, latents, k, _ in MULTIPLIED)
    assert not use_dense(round(MIN_LATENTS_PER_ACTIVE * 8), 8)


def make(
    oracle: SimpleNamespace, rows: int, latents: int, k: int, d: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    indices = oracle.normal(rows, latents, seed=0).topk(k).indices.to(torch.int32)
    values = oracle.eighths(rows, k, seed=1)
    # Unused slots, as an encode leaves them.
    indices[values == 0] = 0
    return values, indices, oracle.eighths(latents, d, seed=2), oracle.eighths(d, seed=3)


@pytest.mark.parametrize("workspace_bytes", [256, 2**26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("rows", "latents", "k", "d"), GATHERED + MULTIPLIED)
def test_values_and_gradients_equal_the_dense_decode(
    oracle: SimpleNamespace,
    rows: int,
    latents: int,
    k: int,
    d: int,
    dtype: torch.dtype,
    workspace_bytes: int,
) -> None:
    values, indices, W, b = make(oracle, rows, latents, k, d)
    # Values stay float32 beside bfloat16 weights, as an encode returns them.
    values = (values.double() if dtype == torch.float64 else values).requires_grad_()
    W, b = W.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()
    grad = oracle.eighths(rows, d, seed=4)

    x_hat = sparse_decode(values, indices, W, b, workspace_bytes=workspace_bytes)
    grads = torch.autograd.grad(x_hat, [values, W, b], grad.to(x_hat.dtype))
    reference = oracle.decode(values, indices, W) + b.double()
    expected = torch.autograd.grad(reference, [values, W, b], grad.double())

    # Sums of products of eighths are exact, so the paths may not differ in one bit.
    assert x_hat.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(x_hat.double(), reference)
    for got, wanted in zip(grads, expected, strict=True):
        assert got.dtype == wanted.dtype
        assert torch.equal(got, wanted)


def test_a_hand_worked_row() -> None:
    W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [0.0, 0.0]])
    values, indices = torch.tensor([[3.0, 0.5]]), torch.tensor([[1, 2]])
    assert sparse_decode(values, indices, W).tolist() == [[1.0, 4.0]]
    b_dec = torch.tensor([10.0, -4.0])
    assert sparse_decode(values, indices, W, b_dec).tolist() == [[11.0, 0.0]]


@pytest.mark.parametrize("latents", [3, 30])
def test_an_index_that_comes_twice_counts_twice(latents: int) -> None:
    W = torch.arange(float(latents))[:, None]
    x_hat = sparse_decode(torch.tensor([[1.0, 2.0]]), torch.tensor([[2, 2]]), W)
    assert x_hat.tolist() == [[6.0]]


@pytest.mark.parametrize(("latents", "k"), [(5, 3), (12, 2)])
def test_gradcheck(oracle: SimpleNamespace, latents: int, k: int) -> None:
    values, indices, W, b = make(oracle, 4, latents, k, 3)
    inputs = [t.double().requires_grad_() for t in (values, W, b)]
    assert torch.autograd.gradcheck(
        lambda values, W, b: sparse_decode(values, indices, W, b), inputs
    )


@pytest.mark.parametrize(("rows", "k"), [(0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("latents", [4, 40])
def test_empty_inputs_give_the_bias_and_zero_gradients(rows: int, k: int, latents: int) -> None:
    values = torch.zeros(rows, k, requires_grad=True)
    W, b = torch.ones(latents, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    x_hat = sparse_decode(values, torch.zeros(rows, k, dtype=torch.int32), W, b)
    assert torch.equal(x_hat, torch.ones(rows, 2))
    grads = torch.autograd.grad(x_hat.sum(), [values, W, b])
    assert grads[0].shape == (rows, k)
    assert not grads[1].any()
    assert grads[2].tolist() == [rows, rows]


@pytest.mark.parametrize("case", [GATHERED[1], MULTIPLIED[2]])
def test_the_gradient_of_a_plain_sum_is_right(
    oracle: SimpleNamespace, case: tuple[int, int, int, int]
) -> None:
    # Autograd hands down one number expanded to [rows, d_out], with stride 0.
    values, indices, W, b = make(oracle, *case)
    inputs = [t.requires_grad_() for t in (values, W, b)]
    got = torch.autograd.grad(sparse_decode(values, indices, W, b).sum(), inputs)
    reference = (oracle.decode(values, indices, W) + b.double()).sum()
    for grad, wanted in zip(got, torch.autograd.grad(reference, inputs), strict=True):
        assert torch.equal(grad, wanted)


def test_nan_stays_in_its_row(oracle: SimpleNamespace) -> None:
    for case in (GATHERED[2], MULTIPLIED[2]):
        values, indices, W, b = make(oracle, *case)
        values[5, 0] = torch.nan
        x_hat = sparse_decode(values, indices, W, b)
        assert x_hat[5].isnan().all()
        assert x_hat.isnan().any(1).sum() == 1


@pytest.mark.parametrize("case", [GATHERED[2], MULTIPLIED[2]])
def test_results_repeat_bit_for_bit(
    oracle: SimpleNamespace, case: tuple[int, int, int, int]
) -> None:
    _, indices, W, b = make(oracle, *case)
    values = oracle.normal(*indices.shape, seed=5).requires_grad_()
    W = oracle.normal(*W.shape, seed=6).requires_grad_()

    def run() -> list[torch.Tensor]:
        x_hat = sparse_decode(values, indices, W, b)
        return [x_hat, *torch.autograd.grad(x_hat.square().sum(), [values, W])]

    first = run()
    for _ in range(3):
        assert all(torch.equal(one, other) for one, other in zip(first, run(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("latents", "k"), [(3000, 16), (3000, 1000)])
def test_the_workspace_is_bounded(
    oracle: SimpleNamespace,
    peak_bytes: Callable[[Callable[[], object]], int],
    dtype: torch.dtype,
    latents: int,
    k: int,
) -> None:
    rows, d, workspace_bytes = 300, 200, 2**19
    values = oracle.normal(rows, k, seed=0).requires_grad_()
    indices = oracle.normal(rows, latents, seed=1).topk(k).indices.to(torch.int32)
    W = oracle.normal(latents, d, seed=2).to(dtype).requires_grad_()

    def forward() -> torch.Tensor:
        return sparse_decode(values, indices, W, workspace_bytes=workspace_bytes)

    lists = rows * k * (6 * 8)
    x_hat = forward()
    assert peak_bytes(forward) <= workspace_bytes + lists + x_hat.nbytes
    grad = torch.ones_like(x_hat)

    def backward() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(x_hat, [values, W], grad)

    assert peak_bytes(backward) <= workspace_bytes + lists + W.nbytes


def test_wrong_arguments_are_refused() -> None:
    values, indices, W = torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.int32), torch.ones(5, 4)
    with pytest.raises(ValueError, match=r"values \[2, 3\], indices \[2, 2\]"):
        sparse_decode(values, indices[:, :2], W)
    with pytest.raises(ValueError, match=r"W_dec \[5\]"):
        sparse_decode(values, indices, W[:, 0])
    with pytest.raises(ValueError, match=r"wanted b_dec \[4\]"):
        sparse_decode(values, indices, W, torch.ones(5))
    with pytest.raises(ValueError, match=r"torch\.float32, wanted torch\.int32"):
        sparse_decode(values, values, W)
    with pytest.raises(ValueError, match=r"W_dec torch\.float64"):
        sparse_decode(values, indices, W.double())
    with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]"):
        sparse_decode(values, indices, W.to("meta"))
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=r"wanted 0 to 4"):
            sparse_decode(values, torch.full((2, 3), wrong), W)


@pytest.mark.parametrize("shape", GATHERED + MULTIPLIED)
def test_the_residual_and_its_squares(oracle: SimpleNamespace, shape: tuple[int, ...]) -> None:
    values, indices, W, b = make(oracle, *shape)
    target = oracle.normal(shape[0], shape[3], seed=9)
    residual, squares = decode_residual(values, indices, W, b, target)
    wanted = reference.decode_residual(values, indices, W, b, target, upcast=True)
    torch.testing.assert_close(residual.double(), wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(squares.double(), wanted[1], rtol=1e-5, atol=1e-5)


def test_a_target_of_another_shape_is_refused(oracle: SimpleNamespace) -> None:
    values, indices, W, b = make(oracle, 63, 65, 3, 65)
    with pytest.raises(ValueError, match=r"got a target \[63, 64\], wanted \[63, 65\]"):
        decode_residual(values, indices, W, b, torch.zeros(63, 64))
