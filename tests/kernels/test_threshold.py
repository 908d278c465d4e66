"""Threshold encode: what is kept, the gradients of the paper, memory, refusals."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope_kernels import reference
from bathyscope_kernels.ragged import Ragged
from bathyscope_kernels.threshold import Thresholded, l0, threshold_encode

TINY = 2**14
"""Bytes that force blocks of a few rows and of 16 latents."""


def assert_same(got: Thresholded, expected: Thresholded) -> None:
    """Exact equality, with NaN equal to NaN."""
    assert got.indices.dtype == torch.int32
    assert got.offsets.dtype == torch.int64
    for one, other in zip(got[1:], expected[1:], strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(
        got.values.double(), expected.values.double(), rtol=0, atol=0, equal_nan=True
    )


def dense(encoded: Thresholded, entries: torch.Tensor, latents: int) -> torch.Tensor:
    """Put one number per entry at its place."""
    return Ragged(entries, encoded.indices, encoded.offsets).to_dense(latents)


def test_a_hand_worked_band() -> None:
    # pre = b; theta = 1, eps = 0.5: kept above 0.75, active above 1, in the band below 1.25.
    b = torch.tensor([0.5, 0.75, 0.875, 1.0, 1.125, 1.25, 3.0], requires_grad=True)
    theta = torch.ones(7, requires_grad=True)
    encoded = threshold_encode(torch.zeros(1, 2), torch.zeros(7, 2), b, theta, bandwidth=0.5)
    assert encoded.indices.tolist() == [2, 3, 4, 5, 6]
    assert encoded.active.tolist() == [False, False, True, True, True]
    assert encoded.values.tolist() == [0, 0, 1.125, 1.25, 3]
    assert encoded.offsets.tolist() == [0, 5]
    grads = torch.autograd.grad(encoded.values.sum(), [b, theta], retain_graph=True)
    assert grads[0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    # -(theta / eps) = -2 for the three inside the band.
    assert grads[1].tolist() == [0, 0, -2, -2, -2, 0, 0]
    active = l0(encoded, theta, bandwidth=0.5)
    assert active.tolist() == [3.0]
    (grad,) = torch.autograd.grad(5 * active.sum(), theta)
    assert grad.tolist() == [0, 0, -10, -10, -10, 0, 0]


@pytest.mark.parametrize("bandwidth", [0.0, 0.5])
@pytest.mark.parametrize("workspace_bytes", [TINY, 2**26])
@pytest.mark.parametrize(
    ("rows", "d", "latents"),
    [(1, 1, 1), (1, 63, 65), (63, 65, 63), (65, 5, 1000), (1000, 3, 63), (130, 1, 65)],
)
def test_quantised_inputs_match_the_reference_bit_for_bit(
    oracle: SimpleNamespace,
    rows: int,
    d: int,
    latents: int,
    workspace_bytes: int,
    bandwidth: float,
) -> None:
    x, W = oracle.eighths(rows, d, seed=0), oracle.eighths(latents, d, seed=1)
    # Thresholds in eighths: many scores are exactly equal to theirs.
    b, theta = oracle.eighths(latents, seed=2), oracle.eighths(latents, seed=3, low=0, high=9)
    arguments = (x, W, b, theta)
    encoded = threshold_encode(*arguments, bandwidth=bandwidth, workspace_bytes=workspace_bytes)
    assert encoded.values.dtype == torch.float32
    assert_same(encoded, reference.threshold_encode(*arguments, bandwidth=bandwidth))
    if bandwidth == 0:
        assert encoded.active.all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(1, 100),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.25, 1.0]),
    st.integers(0, 10**6),
    st.sampled_from([256, TINY, 2**26]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.sampled_from([0.0, torch.nan, -torch.nan, torch.inf, -torch.inf]),
)
def test_all_above_the_threshold_is_kept(
    oracle: SimpleNamespace,
    rows: int,
    latents: int,
    d: int,
    bandwidth: float,
    seed: int,
    workspace_bytes: int,
    dtype: torch.dtype,
    special: float,
) -> None:
    x, W = oracle.eighths(rows, d, seed=seed), oracle.eighths(latents, d, seed=seed + 1)
    b, theta = oracle.eighths(latents, seed=seed + 2), oracle.eighths(latents, seed=seed + 3, low=0)
    b[seed % latents] = special
    arguments = [t.to(dtype) for t in (x, W, b, theta)]
    encoded = threshold_encode(*arguments, bandwidth=bandwidth, workspace_bytes=workspace_bytes)
    assert_same(encoded, reference.threshold_encode(*arguments, bandwidth=bandwidth))
    active = l0(encoded, arguments[3], bandwidth=bandwidth)
    pre = x.double() @ W.double().T + b.double()
    assert torch.equal(active.double(), (~(pre <= theta.double())).sum(1).double())


def test_a_threshold_of_zero_is_a_relu(oracle: SimpleNamespace) -> None:
    x, W, b = (
        oracle.eighths(9, 5, seed=0),
        oracle.eighths(40, 5, seed=1),
        oracle.eighths(40, seed=2),
    )
    encoded = threshold_encode(x, W, b, torch.zeros(40))
    assert torch.equal(dense(encoded, encoded.values, 40), torch.relu(x @ W.T + b))


@pytest.mark.parametrize("row_sparse", [False, True])
@pytest.mark.parametrize("workspace_bytes", [TINY, 2**26])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_paper(
    oracle: SimpleNamespace, dtype: torch.dtype, workspace_bytes: int, row_sparse: bool
) -> None:
    # Eighths and powers of two keep all sums exact in float32; 150 latents of 65 rows.
    latents, bandwidth = 150, 0.5
    x, W = oracle.eighths(65, 4, seed=0), oracle.eighths(latents, 4, seed=1)
    b, theta = oracle.eighths(latents, seed=2), oracle.eighths(latents, seed=3, low=0, high=5)
    inputs = [t.to(dtype).requires_grad_() for t in (x, W, b, theta)]
    encoded = threshold_encode(
        *inputs, bandwidth=bandwidth, row_sparse=row_sparse, workspace_bytes=workspace_bytes
    )
    weight, row_weight = oracle.eighths(encoded.values.numel(), seed=4), oracle.eighths(65, seed=5)
    active = l0(encoded, inputs[3], bandwidth=bandwidth)
    loss = (encoded.values * weight).sum() + (active * row_weight).sum()
    grads = torch.autograd.grad(loss, inputs)

    x, W, b, theta, weight, row_weight = (t.double() for t in (x, W, b, theta, weight, row_weight))
    grad_values = dense(encoded, weight, latents)
    grad_pre, grad_theta = reference.threshold_gradients(
        x @ W.T + b, theta, bandwidth, grad_values, row_weight
    )
    expected = (grad_pre @ W, grad_pre.T @ x, grad_pre.sum(0), grad_theta)
    assert grads[1].is_sparse == row_sparse
    for grad, wanted in zip(grads, expected, strict=True):
        assert grad.dtype == dtype
        grad = grad.to_dense() if grad.is_sparse else grad
        if dtype == torch.bfloat16:
            # Two terms of the threshold's gradient are rounded apart and then added.
            torch.testing.assert_close(grad.double(), wanted, rtol=2**-7, atol=2**-6)
        else:
            assert torch.equal(grad.double(), wanted)


def test_gradcheck(oracle: SimpleNamespace) -> None:
    x, W = oracle.normal(4, 5, seed=0).double(), oracle.normal(10, 5, seed=1).double()
    inputs = [t.requires_grad_() for t in (x, W, oracle.normal(10, seed=2).double())]
    theta = torch.full((10,), 0.3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *args: threshold_encode(*args, theta, bandwidth=0.01).values, inputs
    )


def test_a_gradient_without_the_threshold_needs_no_band(oracle: SimpleNamespace) -> None:
    x, W = oracle.normal(4, 5, seed=0), oracle.normal(10, 5, seed=1).requires_grad_()
    encoded = threshold_encode(x, W, torch.zeros(10), torch.ones(10))
    loss = encoded.values.sum() + l0(encoded, torch.ones(10), bandwidth=0.0).sum()
    (grad,) = torch.autograd.grad(loss, W)
    assert grad.isfinite().all()
    assert grad.any()


def test_results_repeat_bit_for_bit(oracle: SimpleNamespace) -> None:
    x, W = oracle.normal(300, 33, seed=0).requires_grad_(), oracle.normal(700, 33, seed=1)
    theta = torch.full((700,), 6.0, requires_grad=True)
    W.requires_grad_()

    def run() -> list[torch.Tensor]:
        encoded = threshold_encode(x, W, torch.zeros(700), theta, bandwidth=0.5)
        loss = encoded.values.square().sum() + l0(encoded, theta, bandwidth=0.5).sum()
        return [*encoded, *torch.autograd.grad(loss, [x, W, theta])]

    first = run()
    for _ in range(3):
        assert all(torch.equal(one, other) for one, other in zip(first, run(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("level", "share"), [(4.0, 0.3), (-1000.0, 1.0)])
def test_the_workspace_is_bounded(
    oracle: SimpleNamespace,
    peak_bytes: Callable[[Callable[[], object]], int],
    dtype: torch.dtype,
    level: float,
    share: float,
) -> None:
    rows, d, latents, workspace_bytes = 300, 24, 4000, 2**20
    x, W = oracle.normal(rows, d, seed=0).to(dtype), oracle.normal(latents, d, seed=1).to(dtype)
    b, theta = torch.zeros(latents), torch.full((latents,), level)

    def forward() -> Thresholded:
        return threshold_encode(x, W, b, theta, workspace_bytes=workspace_bytes)

    entries = forward().values.numel()
    assert entries <= share * rows * latents
    # Values and positions twice while they are joined; indices, marks and their temporaries.
    assert peak_bytes(forward) <= workspace_bytes + entries * 32


def test_wrong_arguments_are_refused() -> None:
    x, W, b, theta = torch.ones(2, 3), torch.ones(5, 3), torch.ones(5), torch.ones(5)
    with pytest.raises(ValueError, match="transpose it"):
        threshold_encode(x, W.T, b, theta)
    with pytest.raises(ValueError, match=r"threshold \[4\] on cpu, wanted \[5\]"):
        threshold_encode(x, W, b, theta[:4])
    with pytest.raises(ValueError, match=r"threshold torch\.float64"):
        threshold_encode(x, W, b, theta.double())
    for bandwidth in (-1.0, torch.inf, torch.nan):
        with pytest.raises(ValueError, match="wanted a finite number >= 0"):
            threshold_encode(x, W, b, theta, bandwidth=bandwidth)
    encoded = threshold_encode(x, W, b, theta)
    theta.requires_grad_()
    for call in (
        lambda: threshold_encode(x, W, b, theta),
        lambda: l0(encoded, theta, bandwidth=0.0),
    ):
        with pytest.raises(ValueError, match="give a bandwidth"):
            call()
        with torch.no_grad():
            call()
