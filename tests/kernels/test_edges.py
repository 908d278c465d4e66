"""Edges: the best and all strong products, bit for bit on exact inputs, memory, refusals."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope_kernels import reference
from bathyscope_kernels.edges import threshold_edges, topk_edges

pytestmark = pytest.mark.usefixtures("path")

TINY = 2**14
"""Bytes that force blocks of a few targets and of 16 sources."""


def assert_same(got: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    """Exact equality, with NaN equal to NaN."""
    for one, other in zip(got[1:], expected[1:], strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=0, equal_nan=True)


def test_hand_worked_edges() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    sources = torch.tensor([[2.0, 0.0], [-3.0, -1.0], [3.0, 1.0], [0.0, -5.0]])
    # Products: 2, -3, 3, 0 | 0, -1, 1, -5 | zeros.
    edges = topk_edges(targets, sources, 3)
    assert edges.values.tolist() == [[-3, 3, 2], [-5, -1, 1], [0, 0, 0]]
    assert edges.indices.tolist() == [[1, 2, 0], [3, 1, 2], [0, 0, 0]]
    assert edges.count.tolist() == [3, 3, 0]
    signed = topk_edges(targets, sources, 3, magnitude=False)
    assert signed.values.tolist() == [[3, 2, 0], [1, 0, -1], [0, 0, 0]]
    assert signed.indices.tolist() == [[2, 0, 3], [2, 0, 1], [0, 1, 2]]
    assert signed.count.tolist() == [3, 3, 3]
    strong = threshold_edges(targets, sources, 1.0)
    assert strong.values.tolist() == [2, -3, 3, -5]
    assert strong.indices.tolist() == [0, 1, 2, 3]
    assert strong.offsets.tolist() == [0, 3, 4, 4]
    assert threshold_edges(targets, sources, -1.0, magnitude=False).counts.tolist() == [3, 2, 4]


@pytest.mark.parametrize("magnitude", [True, False])
@pytest.mark.parametrize("workspace_bytes", [TINY, 2**26])
@pytest.mark.parametrize(
    ("targets", "d", "sources", "k"),
    [
        (1, 1, 1, 1),
        (1, 63, 65, 1),
        (63, 65, 63, 63),
        (65, 5, 1000, 33),
        (65, 16, 1000, 1),
        (1000, 3, 63, 7),
        (130, 1, 65, 64),
        (3, 8, 1000, 1000),
    ],
)
def test_quantised_inputs_match_a_stable_sort_bit_for_bit(
    oracle: SimpleNamespace,
    targets: int,
    d: int,
    sources: int,
    k: int,
    workspace_bytes: int,
    magnitude: bool,
) -> None:
    T, S = oracle.eighths(targets, d, seed=0), oracle.eighths(sources, d, seed=1)
    edges = topk_edges(T, S, k, magnitude=magnitude, workspace_bytes=workspace_bytes)
    assert edges.values.dtype == torch.float32
    assert_same(edges, reference.topk_edges(T, S, k, magnitude=magnitude))
    for threshold in (0.0, 0.25):
        strong = threshold_edges(
            T, S, threshold, magnitude=magnitude, workspace_bytes=workspace_bytes
        )
        assert_same(strong, reference.threshold_edges(T, S, threshold, magnitude=magnitude))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 30),
    st.integers(1, 100),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 10**6),
    st.sampled_from([256, TINY, 2**26]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.sampled_from([0.0, torch.nan, -torch.nan, torch.inf, -torch.inf]),
    st.data(),
)
def test_selection_equals_the_stable_sort(
    oracle: SimpleNamespace,
    targets: int,
    sources: int,
    d: int,
    magnitude: bool,
    seed: int,
    workspace_bytes: int,
    dtype: torch.dtype,
    special: float,
    data: st.DataObject,
) -> None:
    k = data.draw(st.integers(1, sources))
    T = oracle.eighths(targets, d, seed=seed, low=1 if data.draw(st.booleans()) else -8)
    S = oracle.eighths(sources, d, seed=seed + 1, low=-2, high=3)
    S[seed % sources] = special
    T, S = T.to(dtype), S.to(dtype)
    edges = topk_edges(T, S, k, magnitude=magnitude, workspace_bytes=workspace_bytes)
    assert_same(edges, reference.topk_edges(T, S, k, magnitude=magnitude))
    strong = threshold_edges(T, S, 0.125, magnitude=magnitude, workspace_bytes=workspace_bytes)
    assert_same(strong, reference.threshold_edges(T, S, 0.125, magnitude=magnitude))


@pytest.mark.parametrize("magnitude", [True, False])
def test_normal_inputs_select_all_that_is_clearly_stronger(
    oracle: SimpleNamespace, magnitude: bool
) -> None:
    T, S = oracle.normal(65, 96, seed=0), oracle.normal(1000, 96, seed=1)
    edges = topk_edges(T, S, 24, magnitude=magnitude, workspace_bytes=TINY)
    products = T.double() @ S.double().T
    # 4 ulp of a float32 dot product of 96 terms.
    eps = 4 * 2**-24 * 96**0.5 * T.norm(dim=1) * S.norm(dim=1).max()
    at = products.gather(1, edges.indices.long())
    assert ((at - edges.values).abs() <= eps[:, None]).all()
    strength, found = (products.abs(), at.abs()) if magnitude else (products, at)
    last = strength.sort(dim=1, descending=True).values[:, 23]
    assert (found.amin(1) >= last - eps).all()
    assert (edges.count == 24).all()
    assert all(row.unique().numel() == 24 for row in edges.indices)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_workspace_is_bounded(
    oracle: SimpleNamespace,
    peak_bytes: Callable[[Callable[[], object]], int],
    dtype: torch.dtype,
    ties: bool,
) -> None:
    n, m, d, k, workspace_bytes = 600, 6000, 24, 16, 2**20
    make = oracle.eighths if ties else oracle.normal
    T, S = make(n, d, seed=0).to(dtype), make(m, d, seed=1).to(dtype)
    # The product would be 14.4 MB. Per kept edge: what is returned, and two blocks' best.
    peak = peak_bytes(lambda: topk_edges(T, S, k, workspace_bytes=workspace_bytes))
    assert peak <= workspace_bytes + n * (12 * k + 4) + n * 2 * k * 60
    kept = threshold_edges(T, S, 8.0).values.numel()
    peak = peak_bytes(lambda: threshold_edges(T, S, 8.0, workspace_bytes=workspace_bytes))
    assert peak <= workspace_bytes + kept * 40


def test_no_gradient_is_recorded() -> None:
    T, S = torch.ones(2, 3, requires_grad=True), torch.ones(4, 3)
    assert not topk_edges(T, S, 1).values.requires_grad
    assert not threshold_edges(T, S, 1.0).values.requires_grad


def test_empty_targets_are_allowed() -> None:
    assert topk_edges(torch.zeros(0, 3), torch.ones(4, 3), 2).values.shape == (0, 2)
    assert threshold_edges(torch.zeros(0, 3), torch.ones(4, 3), 0.0).offsets.tolist() == [0]
    assert threshold_edges(torch.ones(2, 3), torch.ones(0, 3), 0.0).offsets.tolist() == [0, 0, 0]


def test_wrong_arguments_are_refused() -> None:
    T, S = torch.ones(2, 3), torch.ones(5, 3)
    for k in (0, 6):
        with pytest.raises(ValueError, match=rf"k = {k}, wanted 1 <= k <= 5"):
            topk_edges(T, S, k)
    for call in (lambda T, S: topk_edges(T, S, 1), lambda T, S: threshold_edges(T, S, 1.0)):
        with pytest.raises(ValueError, match="of one d"):
            call(T, S.T)
        with pytest.raises(ValueError, match=r"sources torch\.float64"):
            call(T, S.double())
        with pytest.raises(ValueError, match="sources on meta"):
            call(T, S.to("meta"))
    with pytest.raises(ValueError, match=r"threshold = -1\.0, wanted a number >= 0"):
        threshold_edges(T, S, -1.0)
    with pytest.raises(ValueError, match="threshold = nan"):
        threshold_edges(T, S, torch.nan, magnitude=False)
