"""BatchTopK encode: selection bit for bit on exact inputs, gradients, memory, refusals."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope_kernels import reference
from bathyscope_kernels.batch_topk import batch_topk_encode
from bathyscope_kernels.ragged import Ragged

TINY = 2**14
"""Bytes that force blocks of a few rows and of 16 latents."""


def assert_same(got: Ragged, expected: Ragged) -> None:
    """Exact equality, with NaN equal to NaN."""
    assert got.indices.dtype == torch.int32
    assert got.offsets.dtype == torch.int64
    assert torch.equal(got.offsets, expected.offsets)
    assert torch.equal(got.indices, expected.indices)
    torch.testing.assert_close(
        got.values.double(), expected.values.double(), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("workspace_bytes", [TINY, 2**26])
@pytest.mark.parametrize(
    ("rows", "d", "latents", "k", "group_rows"),
    [
        (1, 1, 1, 1, 1),
        (1, 63, 65, 1, 100),
        (63, 65, 63, 63, 63),
        (65, 5, 1000, 33, 65),
        (65, 16, 1000, 1, 20),
        (1000, 3, 63, 7, 129),
        (130, 1, 65, 64, 65),
        (9, 4, 70, 3, 1),
    ],
)
def test_quantised_inputs_match_a_stable_sort_bit_for_bit(
    oracle: SimpleNamespace,
    rows: int,
    d: int,
    latents: int,
    k: int,
    group_rows: int,
    workspace_bytes: int,
) -> None:
    x, W = oracle.eighths(rows, d, seed=0), oracle.eighths(latents, d, seed=1)
    b = oracle.eighths(latents, seed=2)
    encoded = batch_topk_encode(x, W, b, k, group_rows, workspace_bytes=workspace_bytes)
    assert encoded.values.dtype == torch.float32
    assert_same(encoded, reference.batch_topk_encode(x, W, b, k, group_rows))


def test_a_hand_worked_batch() -> None:
    # pre = x_r * (1, 2, 3): row 0 gives 1, 2, 3, row 1 gives 3, 6, 9, row 2 gives 2, 4, 6.
    x, W = torch.tensor([[1.0], [3.0], [2.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    encoded = batch_topk_encode(x, W, torch.zeros(3), 1, 3)
    # The three largest are 9, 6, 6: all of row 1's but one, and none of row 0.
    assert encoded.values.tolist() == [6, 9, 6]
    assert encoded.indices.tolist() == [1, 2, 2]
    assert encoded.offsets.tolist() == [0, 0, 2, 3]
    # In batches of two rows the first keeps two of row 1, the last one of row 2.
    assert batch_topk_encode(x, W, torch.zeros(3), 1, 2).offsets.tolist() == [0, 0, 2, 3]
    assert batch_topk_encode(x, W, torch.zeros(3), 1, 1).values.tolist() == [3, 9, 6]


def test_ties_go_to_the_smaller_row_then_latent() -> None:
    for workspace_bytes in (256, 2**26):
        encoded = batch_topk_encode(
            torch.ones(5, 4), torch.ones(40, 4), torch.zeros(40), 9, 5,
            workspace_bytes=workspace_bytes,
        )  # fmt: skip
        # 45 of 200 equal scores: all of row 0, five of row 1.
        assert encoded.counts.tolist() == [40, 5, 0, 0, 0]
        assert encoded.indices.tolist() == [*range(40), *range(5)]


def test_a_strong_block_at_the_end_wins_over_earlier_blocks() -> None:
    # Ascending in both rows and latents: every block beats all before it.
    x, W = torch.arange(1.0, 9.0)[:, None], torch.arange(1.0, 101.0)[:, None]
    for workspace_bytes in (256, 2**12, 2**26):
        encoded = batch_topk_encode(x, W, torch.zeros(100), 3, 8, workspace_bytes=workspace_bytes)
        assert_same(encoded, reference.batch_topk_encode(x, W, torch.zeros(100), 3, 8))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(1, 100),
    st.integers(1, 3),
    st.integers(1, 50),
    st.integers(0, 10**6),
    st.sampled_from([256, TINY, 2**26]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.data(),
)
def test_selection_equals_the_stable_sort(
    oracle: SimpleNamespace,
    rows: int,
    latents: int,
    d: int,
    group_rows: int,
    seed: int,
    workspace_bytes: int,
    dtype: torch.dtype,
    data: st.DataObject,
) -> None:
    k = data.draw(st.integers(1, latents))
    x, W = oracle.eighths(rows, d, seed=seed), oracle.eighths(latents, d, seed=seed + 1)
    b = oracle.eighths(latents, seed=seed + 2, low=-2, high=3)
    if data.draw(st.booleans()):
        b[seed % latents] = data.draw(st.sampled_from([torch.nan, -torch.nan, -torch.inf]))
    x, W, b = x.to(dtype), W.to(dtype), b.to(dtype)
    encoded = batch_topk_encode(x, W, b, k, group_rows, workspace_bytes=workspace_bytes)
    assert_same(encoded, reference.batch_topk_encode(x, W, b, k, group_rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("workspace_bytes", [256, 2**26])
def test_nan_counts_as_largest(
    oracle: SimpleNamespace, dtype: torch.dtype, workspace_bytes: int
) -> None:
    x, W = oracle.eighths(6, 2, seed=0).to(dtype), oracle.eighths(90, 2, seed=1).to(dtype)
    b = torch.zeros(90, dtype=dtype)
    b[40], b[41], b[70] = torch.inf, -torch.inf, -torch.nan
    x[3] = torch.nan
    # 90 NaNs of row 3 and one of each other row, then five infinities: of 60 all are NaN, of 102
    # seven are not.
    for k, others in ((10, 0), (17, 7)):
        encoded = batch_topk_encode(x, W, b, k, 6, workspace_bytes=workspace_bytes)
        assert_same(encoded, reference.batch_topk_encode(x, W, b, k, 6))
        assert encoded.values.numel() == k * 6
        assert (~encoded.values.isnan()).sum() == others


def test_without_positive_scores_nothing_is_kept() -> None:
    x, W = torch.ones(3, 2, requires_grad=True), torch.ones(4, 2, requires_grad=True)
    encoded = batch_topk_encode(x, W, torch.full((4,), -2.0), 2, 2)
    assert encoded.offsets.tolist() == [0, 0, 0, 0]
    grads = torch.autograd.grad(encoded.values.sum(), [x, W])
    assert not any(grad.any() for grad in grads)


def test_zero_rows_are_allowed() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    W, b = torch.ones(5, 3, requires_grad=True), torch.ones(5, requires_grad=True)
    encoded = batch_topk_encode(x, W, b, 2, 4)
    assert encoded.offsets.tolist() == [0]
    grads = torch.autograd.grad(encoded.values.sum(), [x, W, b])
    assert [grad.shape for grad in grads] == [x.shape, W.shape, b.shape]


@pytest.mark.parametrize("row_sparse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("workspace_bytes", [TINY, 2**26])
def test_gradients_equal_dense_formulas(
    oracle: SimpleNamespace, dtype: torch.dtype, workspace_bytes: int, row_sparse: bool
) -> None:
    # Eighths make every sum exact in float32, so only the last rounding may show.
    x, W = oracle.eighths(65, 8, seed=0).to(dtype), oracle.eighths(300, 8, seed=1).to(dtype)
    inputs = [t.requires_grad_() for t in (x, W, torch.zeros(300, dtype=dtype))]
    encoded = batch_topk_encode(
        *inputs, 2, 20, row_sparse=row_sparse, workspace_bytes=workspace_bytes
    )
    weight = oracle.eighths(encoded.values.numel(), seed=3)
    grads = torch.autograd.grad((encoded.values * weight).sum(), inputs)

    D = encoded._replace(values=weight.double()).to_dense(300)
    expected = (D @ W.double(), D.T @ x.double(), D.sum(0))
    assert grads[1].is_sparse == row_sparse
    if row_sparse:
        assert grads[1].is_coalesced()
        assert torch.equal(grads[1].indices()[0], encoded.indices.unique().long())
    for grad, wanted in zip(grads, expected, strict=True):
        assert grad.dtype == dtype
        grad = grad.to_dense() if grad.is_sparse else grad
        assert torch.equal(grad, wanted.detach().to(dtype))


def test_gradcheck(oracle: SimpleNamespace) -> None:
    x, W = oracle.normal(4, 5, seed=0).double(), oracle.normal(10, 5, seed=1).double()
    inputs = [t.requires_grad_() for t in (x, W, oracle.normal(10, seed=2).double())]
    assert torch.autograd.gradcheck(lambda *args: batch_topk_encode(*args, 2, 3).values, inputs)


def test_a_row_sparse_gradient_accumulates_and_steps(oracle: SimpleNamespace) -> None:
    # As a parameter's gradient: autograd adds sparse tensors, and SparseAdam takes them.
    x, W = oracle.normal(20, 5, seed=0), torch.nn.Parameter(oracle.normal(400, 5, seed=1))
    before = W.detach().clone()
    for part in x.split(10):
        encoded = batch_topk_encode(part, W, torch.zeros(400), 3, 10, row_sparse=True)
        encoded.values.sum().backward()
    assert W.grad is not None
    assert W.grad.is_sparse
    moved = W.grad.coalesce().indices()[0]
    torch.optim.SparseAdam([W], lr=0.1).step()
    changed = (W.detach() != before).any(1).nonzero().squeeze(1)
    assert torch.equal(changed, moved)


def test_results_repeat_bit_for_bit(oracle: SimpleNamespace) -> None:
    x, W = oracle.normal(300, 33, seed=0).requires_grad_(), oracle.normal(700, 33, seed=1)
    b = torch.zeros(700, requires_grad=True)
    W.requires_grad_()

    def run() -> list[torch.Tensor]:
        encoded = batch_topk_encode(x, W, b, 13, 128)
        return [*encoded, *torch.autograd.grad(encoded.values.square().sum(), [x, W, b])]

    first = run()
    for _ in range(3):
        assert all(torch.equal(one, other) for one, other in zip(first, run(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [2, 30])
@pytest.mark.parametrize("ties", [False, True])
def test_the_workspace_is_bounded(
    oracle: SimpleNamespace,
    peak_bytes: Callable[[Callable[[], object]], int],
    dtype: torch.dtype,
    k: int,
    ties: bool,
) -> None:
    rows, d, latents, workspace_bytes = 800, 24, 8000, 2**20
    # The dense scores would be 25.6 MB. Half of them are positive, and with ties thousands equal.
    make = oracle.eighths if ties else oracle.normal
    x, W = make(rows, d, seed=0).to(dtype), make(latents, d, seed=1).to(dtype)
    W.requires_grad_()
    b = torch.zeros(latents, dtype=dtype, requires_grad=True)

    def forward() -> Ragged:
        return batch_topk_encode(x, W, b, k, rows, workspace_bytes=workspace_bytes)

    # Up to twice as many candidates, each 12 bytes, twice while they are joined; then marks and
    # the copies that select among them.
    lists = rows * k * 2 * 32
    assert peak_bytes(forward) <= workspace_bytes + lists
    values = forward().values
    grad = torch.ones_like(values)

    def backward() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(values, [W, b], grad)

    assert peak_bytes(backward) <= workspace_bytes + rows * k * 48 + 2 * W.nbytes


def test_wrong_arguments_are_refused() -> None:
    x, W, b = torch.ones(2, 3), torch.ones(5, 3), torch.ones(5)
    for k in (0, 6):
        with pytest.raises(ValueError, match=rf"k = {k}, wanted 1 <= k <= 5"):
            batch_topk_encode(x, W, b, k, 2)
    with pytest.raises(ValueError, match="group_rows = 0, wanted at least 1"):
        batch_topk_encode(x, W, b, 1, 0)
    with pytest.raises(ValueError, match="transpose it"):
        batch_topk_encode(x, W.T, b, 1, 2)
