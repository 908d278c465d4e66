"""BatchTopK on the GPU path against a stable sort of all float64 pre-activations of a group."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels.gpu import batch_topk as module
from bathyscope_kernels.gpu import filter as filtering
from bathyscope_kernels.gpu.batch_topk import batch_topk_encode


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, poisoned: object) -> None:
    """Several pieces, and several programs for each, at sizes that the interpreter can do."""
    monkeypatch.setattr(filtering, "_BLOCK", 128)
    monkeypatch.setattr(module, "_BLOCK", 256)
    monkeypatch.setattr(module, "_SPARE", 60)


@pytest.fixture
def slow_runs(monkeypatch: pytest.MonkeyPatch) -> list[slice]:
    """The groups that were selected again in small pieces."""
    runs: list[slice] = []
    real = module._select_in_small_pieces

    def select(scores: object, group: slice, *rest: object) -> object:
        runs.append(group)
        return real(scores, group, *rest)

    monkeypatch.setattr(module, "_select_in_small_pieces", select)
    return runs


def _encode(
    x: Tensor, W: Tensor, b: Tensor, k: int, group_rows: int, device: torch.device, **options: int
) -> tuple[Tensor, ...]:
    out = batch_topk_encode(x.to(device), W.to(device), b.to(device), k, group_rows, **options)
    assert [t.dtype for t in out] == [torch.float32, torch.int32, torch.int64]
    return tuple(t.cpu() for t in out)


def _wanted(x: Tensor, W: Tensor, b: Tensor, k: int, group_rows: int) -> tuple[Tensor, ...]:
    pre = x.double() @ W.double().T + b.double()
    kept = torch.zeros_like(pre, dtype=torch.bool)
    for start in range(0, x.shape[0], group_rows):
        group = pre[start : start + group_rows]
        order = torch.sort(group.reshape(-1), descending=True, stable=True).indices
        chosen = torch.zeros(group.numel(), dtype=torch.bool, device=x.device)
        chosen[order[: k * group.shape[0]]] = True
        kept[start : start + group_rows] = chosen.view(group.shape) & ~(group <= 0)
    offsets = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
    return pre[kept], kept.nonzero()[:, 1], offsets


def _assert_equal(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    assert torch.equal(got[2], wanted[2])
    assert torch.equal(got[1].long(), wanted[1])
    torch.testing.assert_close(got[0].double(), wanted[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("rows", "latents", "k", "group_rows"),
    [(1, 300, 1, 1), (5, 130, 5, 2), (4, 257, 16, 4), (3, 333, 33, 8)],
)
def test_is_bit_exact_on_quantised_inputs(
    rows: int, latents: int, k: int, group_rows: int, oracle: SimpleNamespace,
    device: torch.device,
) -> None:  # fmt: skip
    x, W, b = (
        oracle.eighths(rows, 8, seed=1),
        oracle.eighths(latents, 8, seed=2),
        oracle.eighths(latents, seed=3),
    )
    got = _encode(x, W, b, k, group_rows, device)
    _assert_equal(got, _wanted(x, W, b, k, group_rows))


def test_bounds_rise_without_losing_anything(
    oracle: SimpleNamespace, device: torch.device, slow_runs: list[slice]
) -> None:
    # Rows of different length in random order: the bound is the group's, not the row's.
    x = oracle.eighths(6, 8, seed=4) * torch.tensor([1.0, 0, 3, 1, 2, 1])[:, None]
    W, b = oracle.eighths(400, 8, seed=5), torch.zeros(400)
    got = _encode(x, W, b, 5, 6, device, workspace_bytes=4_000)
    _assert_equal(got, _wanted(x, W, b, 5, 6))
    assert slow_runs == []


def test_ascending_columns_overflow_and_are_selected_again(
    oracle: SimpleNamespace, device: torch.device, slow_runs: list[slice]
) -> None:
    x = torch.tensor([[1.0], [1.0], [0.5], [-1.0]])
    W, b = torch.arange(700.0)[:, None], torch.zeros(700)
    _assert_equal(_encode(x, W, b, 5, 2, device), _wanted(x, W, b, 5, 2))
    # The second group is short of ascending columns: one row ascends, one never counts.
    assert slow_runs[0] == slice(0, 2)


def test_an_overflow_in_between_is_not_forgotten(
    device: torch.device, slow_runs: list[slice]
) -> None:
    # Ascending for a while, then nothing: the list is short again at the end.
    W = torch.arange(700.0)[:, None]
    W[420:] = 0
    x, b = torch.ones(2, 1), torch.zeros(700)
    _assert_equal(_encode(x, W, b, 5, 2, device), _wanted(x, W, b, 5, 2))
    assert slow_runs == [slice(0, 2)]


def test_a_tie_found_later_in_an_earlier_row_wins(
    device: torch.device, slow_runs: list[slice]
) -> None:
    W = torch.zeros(700, 2)
    W[[3, 4], 1] = 1.0
    W[600, 0] = 1.0
    got = _encode(torch.eye(2), W, torch.zeros(700), 1, 2, device)
    assert [tensor.tolist() for tensor in got] == [[1, 1], [600, 3], [0, 1, 2]]
    assert slow_runs == []


def test_ties_go_to_the_earlier_row_then_latent(
    device: torch.device, slow_runs: list[slice]
) -> None:
    x, W, b = torch.ones(3, 1), torch.ones(400, 1), torch.zeros(400)
    W[399] = 2
    values, indices, offsets = _encode(x, W, b, 5, 3, device, workspace_bytes=4_000)
    assert offsets.tolist() == [0, 13, 14, 15]
    assert indices.tolist() == [*range(12), 399, 399, 399]
    assert values.tolist() == [1.0] * 12 + [2.0] * 3
    # More ties than there is room for.
    assert slow_runs == [slice(0, 3)]


def test_nan_counts_as_largest(
    oracle: SimpleNamespace, device: torch.device, slow_runs: list[slice]
) -> None:
    x, W, b = (
        oracle.eighths(4, 8, seed=6),
        oracle.eighths(300, 8, seed=7),
        oracle.eighths(300, seed=8),
    )
    b[[250, 10]] = torch.tensor([torch.nan, torch.inf])
    _assert_equal(_encode(x, W, b, 3, 4, device), _wanted(x, W, b, 3, 4))
    # So many that the last of the best is NaN, and not all of them are kept.
    x[1, 0] = torch.nan
    got = _encode(x, W, b, 3, 4, device)
    assert bool(got[0].isnan().all())
    assert got[2].tolist() == [0, 1, 12, 12, 12]
    assert got[1].tolist() == [250, *range(11)]


def test_fewer_positive_scores_than_wanted(device: torch.device) -> None:
    x, W = torch.tensor([[1.0], [-1.0], [0.0]]), torch.zeros(90, 1)
    W[[80, 3, 41]] = torch.tensor([[2.0], [2.0], [-5.0]])
    values, indices, offsets = _encode(x, W, torch.zeros(90), 5, 3, device)
    assert values.tolist() == [2, 2, 5]
    assert indices.tolist() == [3, 80, 41]
    assert offsets.tolist() == [0, 2, 3, 3]


def test_no_rows_give_no_rows(device: torch.device) -> None:
    got = _encode(torch.ones(0, 4), torch.ones(9, 4), torch.ones(9), 2, 3, device)
    assert [t.tolist() for t in got] == [[], [], [0]]


def test_refuses_numbers_out_of_range(device: torch.device) -> None:
    inputs = (torch.ones(1, 4), torch.ones(9, 4), torch.ones(9))
    with pytest.raises(ValueError, match="k = 10"):
        _encode(*inputs, 10, 1, device)
    with pytest.raises(ValueError, match="group_rows = 0"):
        _encode(*inputs, 1, 0, device)


@pytest.mark.gpu
def test_a_large_shape_is_bit_exact(
    monkeypatch: pytest.MonkeyPatch, oracle: SimpleNamespace, cuda: torch.device
) -> None:
    monkeypatch.undo()
    x, W = oracle.normal(3000, 64, seed=9), oracle.normal(20_001, 64, seed=10)
    x, W = ((t * 8).round().to(cuda) / 8 for t in (x, W))
    b = oracle.eighths(20_001, seed=11).to(cuda)
    first = batch_topk_encode(x, W, b, 32, 1024)
    _assert_equal(first, _wanted(x, W, b, 32, 1024))
    for _ in range(5):
        assert all(map(torch.equal, first, batch_topk_encode(x, W, b, 32, 1024)))
