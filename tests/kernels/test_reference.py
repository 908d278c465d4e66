"""The reference: by hand, by autograd of dense formulas and by torch's own optimizer."""

from types import SimpleNamespace

import pytest
import torch

from bathyscope_kernels import reference


def test_topk_equals_torch_topk_where_nothing_is_tied(oracle: SimpleNamespace) -> None:
    x, W = oracle.normal(65, 9, seed=0).double(), oracle.normal(63, 9, seed=1).double()
    b = oracle.normal(63, seed=2).double()
    encoded = reference.topk_encode(x, W, b, 7)
    values, indices = torch.relu(x @ W.T + b).topk(7)
    assert torch.equal(encoded.values, values)
    assert torch.equal(encoded.indices.long(), indices)
    assert (encoded.count == 7).all()


def test_topk_by_hand() -> None:
    # pre = b for each row: ties, negatives and a NaN.
    b = torch.tensor([1.0, -1, 2, 1, torch.nan, -torch.inf, 2])
    encoded = reference.topk_encode(torch.zeros(1, 2), torch.zeros(7, 2), b, 7)
    assert encoded.indices.tolist() == [[4, 2, 6, 0, 3, 0, 0]]
    assert encoded.values[0, 1:].tolist() == [2, 2, 1, 1, 0, 0]
    assert encoded.count.tolist() == [5]
    subset = torch.tensor([1, 3, 6])
    aux = reference.auxk_encode(torch.zeros(1, 2), torch.zeros(7, 2), b, 9, subset)
    assert aux.indices.tolist() == [[2, 1, 0]]
    assert aux.values.tolist() == [[2, 1, 0]]
    assert aux.count.tolist() == [2]


def test_batch_topk_of_single_rows_is_topk(oracle: SimpleNamespace) -> None:
    x, W, b = (
        oracle.eighths(9, 3, seed=0),
        oracle.eighths(40, 3, seed=1),
        oracle.eighths(40, seed=2),
    )
    topk = reference.topk_encode(x, W, b, 5)
    ragged = reference.batch_topk_encode(x, W, b, 5, 1)
    S = torch.zeros(9, 40).scatter_add(1, topk.indices.long(), topk.values)
    assert torch.equal(ragged.to_dense(40), S)
    assert torch.equal(ragged.counts, topk.count.long())


def test_batch_topk_by_hand() -> None:
    # pre of rows 0 .. 2: 1, 1 | 2, -1 | 1, 3; two rows share two, the last row has its own.
    x, W = torch.eye(3), torch.tensor([[1.0, 2, 1], [1, -1, 3]])
    encoded = reference.batch_topk_encode(x, W, torch.zeros(2), 1, 2)
    assert encoded.values.tolist() == [1, 2, 3]
    assert encoded.indices.tolist() == [0, 0, 1]
    assert encoded.offsets.tolist() == [0, 1, 2, 3]


def test_threshold_equals_a_mask(oracle: SimpleNamespace) -> None:
    x, W, b = (
        oracle.eighths(9, 3, seed=0),
        oracle.eighths(40, 3, seed=1),
        oracle.eighths(40, seed=2),
    )
    theta = oracle.eighths(40, seed=3, low=0)
    pre = x @ W.T + b
    for bandwidth in (0.0, 0.75):
        values, indices, offsets, active = reference.threshold_encode(
            x, W, b, theta, bandwidth=bandwidth
        )
        kept = pre > theta - bandwidth / 2
        assert torch.equal(offsets.diff(), kept.sum(1))
        assert torch.equal(values, (pre * (pre > theta))[kept])
        assert torch.equal(active, (pre > theta)[kept])
        assert torch.equal(indices, torch.arange(40).int().expand(9, 40)[kept])


def test_the_threshold_gradient_estimates_that_of_the_expected_loss() -> None:
    # The paper's claim: over many rows the estimate is the gradient of the expectation. With pre
    # uniform on [0, 2] and theta = 1, d E[l0] / d theta = -density = -1/2 and
    # d E[pre * (pre > theta)] / d theta = -theta * density = -1/2.
    pre = (torch.arange(100_000, dtype=torch.float64) + 0.5)[:, None] / 50_000
    theta, ones = torch.ones(1, dtype=torch.float64), torch.ones(100_000, dtype=torch.float64)
    _, of_l0 = reference.threshold_gradients(pre, theta, 0.1, 0 * pre, ones)
    _, of_values = reference.threshold_gradients(pre, theta, 0.1, ones[:, None], 0 * ones)
    assert of_l0.item() / 100_000 == pytest.approx(-0.5, abs=1e-3)
    assert of_values.item() / 100_000 == pytest.approx(-0.5, abs=1e-3)


def test_edges_by_hand() -> None:
    targets, sources = torch.ones(1, 1), torch.tensor([[1.0], [-2], [2], [0], [-1]])
    edges = reference.topk_edges(targets, sources, 5)
    assert edges.values.tolist() == [[-2, 2, 1, -1, 0]]
    assert edges.indices.tolist() == [[1, 2, 0, 4, 0]]
    assert edges.count.tolist() == [4]
    signed = reference.topk_edges(targets, sources, 5, magnitude=False)
    assert signed.values.tolist() == [[2, 1, 0, -1, -2]]
    assert signed.indices.tolist() == [[2, 0, 3, 4, 1]]
    strong = reference.threshold_edges(targets, sources, 1.0)
    assert strong.values.tolist() == [-2, 2]
    assert reference.threshold_edges(targets, sources, 0.0, magnitude=False).indices.tolist() == [
        0, 2,
    ]  # fmt: skip


def test_decode_and_residual_by_hand() -> None:
    values, indices = torch.tensor([[3.0, 0.5]]), torch.tensor([[1, 2]])
    W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    b_dec, target = torch.tensor([10.0, -4.0]), torch.tensor([[12.0, 3.0]])
    assert reference.sparse_decode(values, indices, W).tolist() == [[1, 4]]
    assert reference.sparse_decode(values, indices, W, b_dec).tolist() == [[11, 0]]
    residual, squared = reference.decode_residual(values, indices, W, b_dec, target)
    assert residual.tolist() == [[1, 3]]
    assert squared.tolist() == [10]


def test_sparse_backward_equals_autograd_through_both_halves(oracle: SimpleNamespace) -> None:
    x, W_enc, W_dec = (
        oracle.normal(*shape, seed=i).double().requires_grad_()
        for i, shape in enumerate([(65, 9), (63, 9), (63, 5)])
    )
    b_enc = (oracle.normal(63, seed=3).double() - 2).requires_grad_()
    # Some rows have fewer than 20 positive latents, hence unused slots.
    encoded = reference.topk_encode(x, W_enc, b_enc, 20)
    assert (encoded.count < 20).any()
    x_hat = reference.sparse_decode(encoded.values, encoded.indices, W_dec)
    grad = oracle.normal(65, 5, seed=4).double()
    inputs = [encoded.values, W_dec, W_enc, b_enc, x]
    expected = torch.autograd.grad(x_hat, inputs, grad)
    got = reference.sparse_backward(grad, encoded.values, encoded.indices, x, W_enc, W_dec)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_sampled_dot_equals_a_gather(oracle: SimpleNamespace) -> None:
    gradients, W_dec = oracle.normal(2, 3, 5, seed=0), oracle.normal(7, 5, seed=1)
    positions, latents = torch.tensor([2, 0, 0, 1]), torch.tensor([6, 1, 0, 6])
    scale = torch.tensor([1.0, -2.0, 0.0, 0.5])
    expected = (gradients[:, positions] * W_dec[latents]).sum(2) * scale
    scores = reference.sampled_dot(gradients, W_dec, positions, latents, scale)
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99)])
def test_adam_equals_torch(oracle: SimpleNamespace, betas: tuple[float, float]) -> None:
    start = oracle.normal(63, 5, seed=0).double()
    parameter = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.03, betas=betas, eps=1e-6)
    state = (start, torch.zeros_like(start), torch.zeros_like(start))
    for step in range(1, 6):
        grad = oracle.normal(63, 5, seed=step).double()
        parameter.grad = grad.clone()
        optimizer.step()
        state = reference.adam(state[0], grad, *state[1:], step, lr=0.03, betas=betas, eps=1e-6)
    torch.testing.assert_close(state[0], parameter.detach(), rtol=1e-12, atol=1e-14)
    assert torch.equal(start, oracle.normal(63, 5, seed=0).double())


def test_top_examples_by_hand() -> None:
    values = torch.tensor([[1.0, 3.0], [3.0, torch.nan], [3.0, -1.0], [1.0, 0.0]])
    indices = torch.tensor([[0, 1], [0, 1], [0, 1], [0, 1]])
    best, rows = reference.top_examples(3, 3, values, indices, torch.tensor([9, 8, 7, 6]))
    assert best[0].tolist() == [3, 3, 1]
    assert rows.tolist() == [[7, 8, 6], [8, 9, -1], [-1, -1, -1]]
    assert best[1].isnan().tolist() == [True, False, False]


def test_the_dtype_follows_the_inputs_or_upcast(oracle: SimpleNamespace) -> None:
    x, W = oracle.eighths(3, 4, seed=0), oracle.eighths(9, 4, seed=1)
    for dtype, upcast, wanted in (
        (torch.float32, False, torch.float32),
        (torch.bfloat16, False, torch.float32),
        (torch.float64, False, torch.float64),
        (torch.bfloat16, True, torch.float64),
    ):
        encoded = reference.topk_encode(
            x.to(dtype), W.to(dtype), torch.zeros(9, dtype=dtype), 2, upcast=upcast
        )
        assert encoded.values.dtype == wanted
        decoded = reference.sparse_decode(
            encoded.values, encoded.indices, W.to(encoded.values.dtype), upcast=upcast
        )
        assert decoded.dtype == wanted
    with pytest.raises(ValueError, match="float64 for all of them"):
        reference.topk_encode(x, W.double(), torch.zeros(9), 2)
