"""Edges on the GPU path against dense float64 products."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels.gpu import filter as filtering
from bathyscope_kernels.gpu import topk
from bathyscope_kernels.gpu.edges import threshold_edges, topk_edges


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, poisoned: object) -> None:
    monkeypatch.setattr(topk, "_first_columns", lambda k: max(32, 2 * k))
    monkeypatch.setattr(filtering, "_BLOCK", 128)


def _vectors(oracle: SimpleNamespace, n: int, m: int, seed: int) -> tuple[Tensor, Tensor]:
    return oracle.eighths(n, 8, seed=seed), oracle.eighths(m, 8, seed=seed + 1)


@pytest.mark.parametrize("magnitude", [True, False])
@pytest.mark.parametrize("k", [1, 5, 16, 33])
def test_the_best_edges_are_bit_exact(
    k: int, magnitude: bool, oracle: SimpleNamespace, device: torch.device
) -> None:
    targets, sources = _vectors(oracle, 3, 300, seed=k)
    got = topk_edges(targets.to(device), sources.to(device), k, magnitude=magnitude)
    products = targets.double() @ sources.double().T
    strength = products.abs() if magnitude else products
    order = torch.sort(strength, dim=1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(got[1].cpu().long(), order)
    assert torch.equal(got[0].cpu().double(), products.gather(1, order))
    assert got[2].tolist() == [k] * 3


def test_all_edges_of_either_sign_compete(device: torch.device) -> None:
    targets = torch.tensor([[1.0], [-1.0], [0.0]], device=device)
    sources = torch.tensor([[-2.0], [0.0], [2.0], [-torch.inf], [torch.nan]], device=device)
    values, indices, count = topk_edges(targets[:2], sources, 5, magnitude=False)
    assert count.tolist() == [5, 5]
    assert indices.tolist() == [[4, 2, 1, 0, 3], [4, 3, 0, 1, 2]]
    assert values[:, 1:].tolist() == [[2, 0, -2, -torch.inf], [torch.inf, 2, 0, -2]]
    values, indices, count = topk_edges(targets, sources[:3], 3)
    # A product of zero is no edge, and of equal magnitudes the smaller source comes first.
    assert count.tolist() == [2, 2, 0]
    assert indices.tolist() == [[0, 2, 0], [0, 2, 0], [0, 0, 0]]
    assert values.tolist() == [[-2, 2, 0], [2, -2, 0], [0, 0, 0]]


def test_a_sign_survives_selection_by_sorting(
    monkeypatch: pytest.MonkeyPatch, oracle: SimpleNamespace, device: torch.device
) -> None:
    targets, sources = (tensor.to(device) for tensor in _vectors(oracle, 3, 100, seed=60))
    for magnitude in (True, False):
        wanted = topk_edges(targets, sources, 16, magnitude=magnitude)
        with monkeypatch.context() as patch:
            patch.setattr(topk, "MAX_K", 4)
            got = topk_edges(targets, sources, 16, magnitude=magnitude)
        assert all(map(torch.equal, got, wanted))


def test_ascending_products_overflow_and_are_selected_again(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    monkeypatch.setattr(topk, "list_length", lambda k: 2 * k)
    sources = torch.arange(-200.0, 0.0, device=device)[:, None]
    values, indices, _ = topk_edges(torch.ones(1, 1, device=device), sources, 5, magnitude=False)
    assert indices.tolist() == [[199, 198, 197, 196, 195]]
    assert values.tolist() == [[-1, -2, -3, -4, -5]]


@pytest.mark.parametrize("magnitude", [True, False])
def test_edges_above_a_threshold_are_bit_exact(
    magnitude: bool, oracle: SimpleNamespace, device: torch.device
) -> None:
    targets, sources = _vectors(oracle, 4, 257, seed=70)
    sources[100, 0] = torch.nan
    threshold = 1.5 if magnitude else -0.5
    values, indices, offsets = (
        tensor.cpu()
        for tensor in threshold_edges(
            targets.to(device), sources.to(device), threshold, magnitude=magnitude
        )
    )
    products = targets.double() @ sources.double().T
    kept = ~((products.abs() if magnitude else products) <= threshold)
    assert torch.equal(offsets, torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0)))
    assert torch.equal(indices.long(), kept.nonzero()[:, 1])
    torch.testing.assert_close(values.double(), products[kept], rtol=0, atol=0, equal_nan=True)


def test_refuses_what_has_no_answer(device: torch.device) -> None:
    vectors = torch.ones(2, 3, device=device)
    with pytest.raises(ValueError, match="k = 3"):
        topk_edges(vectors, vectors, 3)
    with pytest.raises(ValueError, match="as magnitudes are"):
        threshold_edges(vectors, vectors, -1.0)
    with pytest.raises(ValueError, match="threshold = nan"):
        threshold_edges(vectors, vectors, torch.nan, magnitude=False)
