"""TopK encode: selection bit for bit on exact inputs, gradients, memory, refusals."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope_kernels import Encoded, topk_encode

pytestmark = pytest.mark.usefixtures("path")

TINY = 2**14
"""Bytes that force blocks of a few rows and of 16 to 32 latents."""


def assert_same(encoded: Encoded, expected: tuple[torch.Tensor, ...]) -> None:
    """Exact equality, with NaN equal to NaN."""
    values, indices, count = expected
    torch.testing.assert_close(encoded.values.double(), values, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(encoded.indices.long(), indices)
    assert torch.equal(encoded.count.long(), count)


@pytest.mark.parametrize("workspace_bytes", [TINY, 2**26])
@pytest.mark.parametrize(
    ("rows", "d", "latents", "k"),
    [
        (1, 1, 1, 1),
        (1, 63, 65, 1),
        (63, 65, 63, 63),
        (65, 5, 1000, 33),
        (65, 16, 1000, 1),
        (3, 8, 1000, 1000),
        (1000, 3, 63, 7),
        (130, 1, 65, 64),
    ],
)
def test_quantised_inputs_match_a_stable_sort_bit_for_bit(
    oracle: SimpleNamespace, rows: int, d: int, latents: int, k: int, workspace_bytes: int
) -> None:
    x, W = oracle.eighths(rows, d, seed=0), oracle.eighths(latents, d, seed=1)
    b = oracle.eighths(latents, seed=2)
    encoded = topk_encode(x, W, b, k, workspace_bytes=workspace_bytes)
    assert encoded.values.dtype == torch.float32
    assert encoded.indices.dtype == encoded.count.dtype == torch.int32
    assert encoded.values.shape == encoded.indices.shape == (rows, k)
    assert_same(encoded, oracle.topk(x, W, b, k))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("workspace_bytes", [TINY, 2**26])
def test_every_dtype_selects_the_same(
    oracle: SimpleNamespace, dtype: torch.dtype, workspace_bytes: int
) -> None:
    x, W = oracle.eighths(65, 9, seed=0).to(dtype), oracle.eighths(500, 9, seed=1).to(dtype)
    b = oracle.eighths(500, seed=2).to(dtype)
    encoded = topk_encode(x, W, b, 21, workspace_bytes=workspace_bytes)
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert encoded.values.dtype == wanted
    assert_same(encoded, oracle.topk(x, W, b, 21))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 9),
    st.integers(1, 200),
    st.integers(1, 3),
    st.integers(0, 10**6),
    st.sampled_from([256, TINY, 20_000, 2**26]),
    st.data(),
)
def test_selection_equals_the_stable_sort(
    oracle: SimpleNamespace,
    rows: int,
    latents: int,
    d: int,
    seed: int,
    workspace_bytes: int,
    data: st.DataObject,
) -> None:
    k = data.draw(st.integers(1, latents))
    x, W = oracle.eighths(rows, d, seed=seed), oracle.eighths(latents, d, seed=seed + 1)
    b = oracle.eighths(latents, seed=seed + 2, low=-2, high=3)
    encoded = topk_encode(x, W, b, k, workspace_bytes=workspace_bytes)
    assert_same(encoded, oracle.topk(x, W, b, k))


@pytest.mark.parametrize("workspace_bytes", [TINY, 2**26])
def test_normal_inputs_select_all_that_is_clearly_larger(
    oracle: SimpleNamespace, workspace_bytes: int
) -> None:
    x, W, b = oracle.normal(65, 96, seed=0), oracle.normal(1000, 96, seed=1), torch.zeros(1000)
    encoded = topk_encode(x, W, b, 24, workspace_bytes=workspace_bytes)
    pre = x.double() @ W.double().T
    # 4 ulp of a float32 dot product of 96 terms.
    eps = 4 * 2**-24 * 96**0.5 * x.norm(dim=1) * W.norm(dim=1).max()
    at = pre.gather(1, encoded.indices.long())
    assert ((at - encoded.values).abs() <= eps[:, None]).all()
    last = pre.sort(dim=1, descending=True).values[:, 23]
    assert (at.amin(1) >= last - eps).all()
    assert ((pre > (last + eps)[:, None]).sum(1) <= 24).all()
    assert (encoded.values.diff(dim=1) <= 0).all()
    assert all(row.unique().numel() == 24 for row in encoded.indices)


def test_duplicate_latents_and_rows_take_the_smaller_index() -> None:
    # All 40 latents are alike and all rows are alike: the first seven win everywhere.
    x, W = torch.ones(5, 4), torch.ones(40, 4)
    for workspace_bytes in (256, 2**26):
        encoded = topk_encode(x, W, torch.zeros(40), 7, workspace_bytes=workspace_bytes)
        assert encoded.indices.tolist() == [list(range(7))] * 5
        assert encoded.values.tolist() == [[4.0] * 7] * 5


def test_a_strong_block_at_the_end_wins_over_earlier_blocks() -> None:
    # Ascending scores: every block beats all before it.
    W = torch.arange(1.0, 101.0)[:, None]
    encoded = topk_encode(torch.ones(2, 1), W, torch.zeros(100), 3, workspace_bytes=256)
    assert encoded.indices.tolist() == [[99, 98, 97]] * 2
    assert encoded.values.tolist() == [[100.0, 99.0, 98.0]] * 2


def test_rows_without_positive_scores_are_empty() -> None:
    x = torch.tensor([[1.0], [-1.0], [0.0]])
    encoded = topk_encode(x, -torch.ones(6, 1), torch.tensor([0.0, 0, 0, 0, -1, 2]), 3)
    # Row 0: -1, -1, -1, -1, -2, 1. Row 1: 1, 1, 1, 1, 0, 3. Row 2: 0, 0, 0, 0, -1, 2.
    assert encoded.values.tolist() == [[1, 0, 0], [3, 1, 1], [2, 0, 0]]
    assert encoded.indices.tolist() == [[5, 0, 0], [5, 0, 1], [5, 0, 0]]
    assert encoded.count.tolist() == [1, 3, 1]
    silent = topk_encode(x, torch.zeros(6, 1), -torch.ones(6), 2)
    assert silent.count.tolist() == [0, 0, 0]
    assert not silent.values.any()
    assert not silent.indices.any()


@pytest.mark.parametrize("workspace_bytes", [256, 2**26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_counts_as_largest(
    oracle: SimpleNamespace, dtype: torch.dtype, workspace_bytes: int
) -> None:
    x, W = oracle.eighths(6, 2, seed=0).to(dtype), oracle.eighths(90, 2, seed=1).to(dtype)
    b = torch.zeros(90, dtype=dtype)
    b[[17, 70]] = torch.nan
    b[40], b[41] = torch.inf, -torch.inf
    # x86 makes NaNs with the sign bit set; both signs must rank above +inf.
    b[70] = -b[70]
    x[3] = torch.nan
    encoded = topk_encode(x, W, b, 4, workspace_bytes=workspace_bytes)
    assert encoded.indices[0, :3].tolist() == [17, 70, 40]
    assert encoded.indices[3].tolist() == [0, 1, 2, 3]
    assert encoded.values[3].isnan().all()
    assert encoded.count[3] == 4
    assert_same(encoded, oracle.topk(x, W, b, 4))


def test_zero_rows_are_allowed() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    W, b = torch.ones(5, 3, requires_grad=True), torch.ones(5, requires_grad=True)
    encoded = topk_encode(x, W, b, 2)
    assert encoded.values.shape == encoded.indices.shape == (0, 2)
    assert encoded.count.shape == (0,)
    grads = torch.autograd.grad(encoded.values.sum(), [x, W, b])
    assert [grad.shape for grad in grads] == [x.shape, W.shape, b.shape]
    assert not any(grad.any() for grad in grads)


# Sizes on both sides of the density where the backward pass turns to matmul.
@pytest.mark.parametrize(("latents", "k"), [(200, 7), (20, 9), (9, 9)])
@pytest.mark.parametrize("workspace_bytes", [TINY, 2**26])
def test_gradients_equal_dense_autograd(
    oracle: SimpleNamespace, latents: int, k: int, workspace_bytes: int
) -> None:
    inputs = [oracle.normal(*shape, seed=i) for i, shape in enumerate([(65, 11), (latents, 11)])]
    inputs = [t.double().requires_grad_() for t in (*inputs, oracle.normal(latents, seed=3) - 1)]
    weight = oracle.normal(65, k, seed=4).double()
    dense = torch.relu(torch.topk(inputs[0] @ inputs[1].T + inputs[2], k).values)
    expected = torch.autograd.grad((dense * weight).sum(), inputs)

    encoded = topk_encode(*inputs, k, workspace_bytes=workspace_bytes)
    torch.testing.assert_close(encoded.values, dense)
    grads = torch.autograd.grad((encoded.values * weight).sum(), inputs)
    for grad, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("latents", "k"), [(300, 5), (20, 8)])
@pytest.mark.parametrize("workspace_bytes", [2**14, 2**26])
def test_low_precision_gradients_accumulate_in_fp32(
    oracle: SimpleNamespace, dtype: torch.dtype, latents: int, k: int, workspace_bytes: int
) -> None:
    # Eighths make every sum exact in float32, so only the last rounding may show.
    x, W = (oracle.eighths(65, 8, seed=0).to(dtype), oracle.eighths(latents, 8, seed=1).to(dtype))
    inputs = [t.requires_grad_() for t in (x, W, torch.zeros(latents, dtype=dtype))]
    encoded = topk_encode(*inputs, k, workspace_bytes=workspace_bytes)
    weight = oracle.eighths(65, k, seed=3)
    grads = torch.autograd.grad((encoded.values * weight).sum(), inputs)

    acts = torch.zeros(65, latents, dtype=torch.float64)
    masked = weight.double() * (encoded.values > 0)
    acts.scatter_add_(1, encoded.indices.long(), masked)
    expected = (acts @ W.double(), acts.T @ x.double(), acts.sum(0))
    for grad, wanted in zip(grads, expected, strict=True):
        assert grad.dtype == dtype
        assert torch.equal(grad, wanted.detach().to(torch.float32).to(dtype))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_gradcheck(oracle: SimpleNamespace, k: int) -> None:
    x, W = oracle.normal(4, 5, seed=0).double(), oracle.normal(10, 5, seed=1).double()
    inputs = [t.requires_grad_() for t in (x, W, oracle.normal(10, seed=2).double())]
    assert torch.autograd.gradcheck(lambda *args: topk_encode(*args, k).values, inputs)


def test_only_the_wanted_gradients_are_made(oracle: SimpleNamespace) -> None:
    x, W = oracle.normal(4, 5, seed=0), oracle.normal(30, 5, seed=1).requires_grad_()
    encoded = topk_encode(x, W, torch.zeros(30), 2)
    assert encoded.values.requires_grad
    assert not encoded.indices.requires_grad
    encoded.values.sum().backward()
    assert x.grad is None
    assert W.grad is not None


def test_an_infinite_row_leaves_unused_slots_alone() -> None:
    # Row 0 uses no latent; its infinity must not reach latent 0 as 0 * inf.
    x = torch.tensor([[-torch.inf], [1.0]])
    W = torch.ones(30, 1, requires_grad=True)
    topk_encode(x, W, torch.zeros(30), 2).values.sum().backward()
    assert W.grad is not None
    assert W.grad.squeeze(1).tolist() == [1.0, 1.0] + [0.0] * 28


def test_results_repeat_bit_for_bit(oracle: SimpleNamespace) -> None:
    x, W = oracle.normal(300, 33, seed=0).requires_grad_(), oracle.normal(700, 33, seed=1)
    W.requires_grad_()
    b = torch.zeros(700, requires_grad=True)

    def run() -> list[torch.Tensor]:
        encoded = topk_encode(x, W, b, 13)
        grads = torch.autograd.grad(encoded.values.square().sum(), [x, W, b])
        return [*encoded, *grads]

    first = run()
    for _ in range(3):
        assert all(torch.equal(one, other) for one, other in zip(first, run(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [8, 1500])
@pytest.mark.parametrize("ties", [False, True])
def test_the_workspace_is_bounded(
    oracle: SimpleNamespace,
    peak_bytes: Callable[[Callable[[], object]], int],
    dtype: torch.dtype,
    k: int,
    ties: bool,
) -> None:
    rows, d, latents, workspace_bytes = 400, 48, 4000, 2**20
    make = oracle.eighths if ties else oracle.normal
    x, W = (make(rows, d, seed=0).to(dtype), make(latents, d, seed=1).to(dtype).requires_grad_())
    b = torch.zeros(latents, dtype=dtype, requires_grad=True)

    def forward() -> Encoded:
        return topk_encode(x, W, b, k, workspace_bytes=workspace_bytes)

    # Values, indices and count; the dense scores would be 6.4 MB.
    outputs = rows * (8 * k + 4)
    assert peak_bytes(forward) <= workspace_bytes + outputs
    values = forward().values
    grad = torch.ones_like(values)

    def backward() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(values, [W, b], grad)

    # Lists of rows * k entries (five of int64 and one of values); a [rows, k, d] would be 48.
    lists = rows * k * (6 * 8)
    assert peak_bytes(backward) <= workspace_bytes + lists + 2 * W.nbytes


def test_strided_inputs_give_the_same(oracle: SimpleNamespace) -> None:
    x, W, b = oracle.eighths(9, 4, seed=0), oracle.eighths(50, 4, seed=1), torch.zeros(50)
    expected = oracle.topk(x, W, b, 6)
    for strided in (W.T.contiguous().T, torch.cat([W, W], dim=1)[:, :4]):
        assert_same(topk_encode(x.T.contiguous().T, strided, b, 6), expected)


def test_wrong_arguments_are_refused() -> None:
    x, W, b = torch.ones(2, 3), torch.ones(5, 3), torch.ones(5)
    for k in (0, -1, 6):
        with pytest.raises(ValueError, match=rf"k = {k}, wanted 1 <= k <= 5"):
            topk_encode(x, W, b, k)
    for shapes in ((x[0], W, b), (x, b, b), (x, W, W)):
        with pytest.raises(ValueError, match=r"wanted x \[rows, d\]"):
            topk_encode(*shapes, 1)
    with pytest.raises(ValueError, match="transpose it"):
        topk_encode(x, W.T, b, 1)
    with pytest.raises(ValueError, match="one number of latents"):
        topk_encode(x, W, b[:4], 1)
    with pytest.raises(ValueError, match=r"x torch\.float64"):
        topk_encode(x.double(), W, b, 1)
    with pytest.raises(ValueError, match=r"b_enc torch\.int64"):
        topk_encode(x, W, b.long(), 1)
    with pytest.raises(ValueError, match="W_enc on meta"):
        topk_encode(x, W.to("meta"), b, 1)
