"""The one interface: each policy is its operation, and bias and subset go where they belong."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels import auxk_encode, topk_encode
from bathyscope_kernels.batch_topk import batch_topk_encode
from bathyscope_kernels.edges import threshold_edges, topk_edges
from bathyscope_kernels.gemm_select import (
    BatchTopK,
    EdgesAbove,
    LargestEdges,
    Policy,
    Threshold,
    TopK,
    gemm_select,
)
from bathyscope_kernels.threshold import threshold_encode

WORKSPACE = 2**14


def made(oracle: SimpleNamespace) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(oracle.eighths(*s, seed=i) for i, s in enumerate([(63, 5), (130, 5), (130,)]))


def assert_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert type(got) is type(expected)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_encoders_are_their_operations(oracle: SimpleNamespace) -> None:
    x, W, b = made(oracle)
    theta, subset = oracle.eighths(130, seed=3, low=0), torch.arange(3, 120, 7)
    given = {"workspace_bytes": WORKSPACE}
    assert_same(gemm_select(x, W, b, TopK(7), **given), topk_encode(x, W, b, 7, **given))
    assert_same(
        gemm_select(x, W, b, TopK(40), subset=subset, **given),
        auxk_encode(x, W, b, 40, subset, **given),
    )
    assert_same(
        gemm_select(x, W, b, BatchTopK(7, 20), **given), batch_topk_encode(x, W, b, 7, 20, **given)
    )
    for bandwidth in (0.0, 0.5):
        assert_same(
            gemm_select(x, W, b, Threshold(theta, bandwidth), **given),
            threshold_encode(x, W, b, theta, bandwidth=bandwidth, **given),
        )


@pytest.mark.parametrize("magnitude", [True, False])
def test_edges_are_their_operations(oracle: SimpleNamespace, magnitude: bool) -> None:
    x, W, _ = made(oracle)
    given = {"workspace_bytes": WORKSPACE}
    assert_same(
        gemm_select(x, W, None, LargestEdges(7, magnitude), **given),
        topk_edges(x, W, 7, magnitude=magnitude, **given),
    )
    assert_same(
        gemm_select(x, W, None, EdgesAbove(0.25, magnitude), **given),
        threshold_edges(x, W, 0.25, magnitude=magnitude, **given),
    )


def test_policies_agree_where_they_mean_the_same(oracle: SimpleNamespace) -> None:
    x, W, b = made(oracle)
    dense = torch.relu(x @ W.T + b)
    single = gemm_select(x, W, b, BatchTopK(130, 1))
    everything = gemm_select(x, W, b, Threshold(torch.zeros(130)))
    top = gemm_select(x, W, b, TopK(130))
    assert torch.equal(single.to_dense(130), dense)
    assert_same(everything[:3], tuple(single))
    assert torch.equal(top.count.long(), single.counts)
    # Without a bias, positive products are positive edges.
    positive = gemm_select(x, W, None, EdgesAbove(0.0, magnitude=False))
    assert_same(tuple(positive), tuple(gemm_select(x, W, 0 * b, BatchTopK(130, 1))))


def test_gradients_flow_through_encoders(oracle: SimpleNamespace) -> None:
    x, W, b = (t.requires_grad_() for t in made(oracle))
    for policy in (TopK(3), BatchTopK(3, 9), Threshold(torch.ones(130))):
        grads = torch.autograd.grad(gemm_select(x, W, b, policy).values.sum(), [x, W, b])
        assert all(grad.any() for grad in grads)


@pytest.mark.parametrize(
    "policy", [BatchTopK(2, 2), Threshold(torch.ones(5)), LargestEdges(2), EdgesAbove(1.0)]
)
def test_a_subset_is_for_topk(policy: Policy) -> None:
    with pytest.raises(ValueError, match=rf"a subset with {type(policy).__name__}, wanted one"):
        gemm_select(torch.ones(2, 3), torch.ones(5, 3), None, policy, subset=torch.arange(2))


def test_wrong_arguments_are_refused() -> None:
    x, W, b = torch.ones(2, 3), torch.ones(5, 3), torch.ones(5)
    for encoder in (TopK(2), BatchTopK(2, 2), Threshold(b)):
        with pytest.raises(ValueError, match=r"got no bias with .* pass zeros"):
            gemm_select(x, W, None, encoder)
    for edges in (LargestEdges(2), EdgesAbove(1.0)):
        with pytest.raises(ValueError, match=r"a bias \[5\] with .*, wanted None"):
            gemm_select(x, W, b, edges)
    with pytest.raises(ValueError, match="got the policy 7, wanted a TopK"):
        gemm_select(x, W, b, 7)
    with pytest.raises(ValueError, match="k = 6, wanted 1 <= k <= 5"):
        gemm_select(x, W, b, TopK(6))
