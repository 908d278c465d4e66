"""The k largest of a chunk and of two lists, on scores that a matmul would not give."""

import pytest
import torch
from torch import Tensor

from bathyscope_kernels.gpu.best_rows import write_rows
from bathyscope_kernels.gpu.filter import empty_candidates
from bathyscope_kernels.gpu.keys import unpack_entries
from bathyscope_kernels.gpu.select import Best, list_length, merge, select_dense

_ALL = -(2**31)


def _dense(scores: Tensor, k: int, *, floor: int = _ALL, magnitude: bool = False) -> list[int]:
    """Return the columns of the k best, ascending."""
    candidates = empty_candidates(1, k, scores.device)
    select_dense(scores, None, candidates, first_column=0, k=k, floor=floor, magnitude=magnitude)
    kept, columns = unpack_entries(candidates.entries[0, : int(candidates.lengths)])
    assert torch.equal(kept.view(torch.int32), scores[0, columns.long()].view(torch.int32))
    return columns.tolist()


def _bits(*patterns: int) -> Tensor:
    return torch.tensor([patterns], dtype=torch.int64).to(torch.int32).view(torch.float32)


def test_zeros_of_either_sign_are_tied(device: torch.device) -> None:
    scores = torch.tensor([[0.0, -0.0, 0.0, -1.0]], device=device)
    assert _dense(scores, 2) == [0, 1]
    assert _dense(scores, 2, floor=0) == []
    assert _dense(scores, 2, floor=0, magnitude=True) == [3]


def test_nan_of_any_sign_and_payload_are_tied(device: torch.device) -> None:
    # 1.0, a negative NaN, +inf, a NaN of large and one of small payload (all quiet).
    scores = _bits(0x3F800000, 0xFFC00000, 0x7F800000, 0x7FFFFFFF, 0x7FC00001).to(device)
    assert _dense(scores, 1) == [1]
    assert _dense(scores, 2) == [1, 3]
    assert _dense(scores, 3, magnitude=True) == [1, 3, 4]
    assert _dense(scores, 4, floor=0) == [1, 2, 3, 4]


@pytest.mark.parametrize("k", [1, 3, 8])
def test_neighbouring_floats_are_told_apart(k: int, device: torch.device) -> None:
    # Subnormal numbers and the last bits of large ones; every bit of an order is needed.
    patterns = [1, 2, 3, 0x7F7FFFFE, 0x7F7FFFFF, 0x80000001, 0x80000002, 0xFF7FFFFF, 0xFF800000]
    scores = _bits(*patterns).to(device)
    order = torch.sort(scores[0].cpu().double(), descending=True, stable=True).indices
    assert _dense(scores, k) == sorted(order[:k].tolist())


def test_lists_are_joined_and_emptied(device: torch.device) -> None:
    k = 2
    best = [Best(*empty_candidates(2, k, device)) for _ in range(2)]
    candidates = empty_candidates(2, list_length(k) - k, device)
    tau = torch.full((2,), torch.nan, device=device)
    lost = torch.zeros(2, dtype=torch.int32, device=device)
    first = torch.tensor([[3.0, 5, -1, 4], [2, -1, -1, -1]], device=device)
    second = torch.tensor([[4.0, 1, 6, 0], [0, 0, 0, 0]], device=device)
    for scores, column in ((first, 0), (second, 4)):
        select_dense(scores, None, candidates, first_column=column, k=k, floor=0, magnitude=False)
        merge(best[0], candidates, best[1], tau, lost, k=k, magnitude=False)
        best.reverse()
        assert candidates.lengths.tolist() == [0, 0]
        # The second row has fewer than k, so everything above 0 is still wanted.
        assert tau.tolist() == ([4.0, 0.0] if column == 0 else [5.0, 0.0])
    assert lost.tolist() == [0, 0]
    values = torch.full((2, k), torch.nan, device=device)
    indices, count = torch.full_like(values, -1).int(), torch.full_like(lost, -1)
    write_rows(best[0], values, indices, count, magnitude=False)
    assert values.tolist() == [[6, 5], [2, 0]]
    assert indices.tolist() == [[6, 1], [0, 0]]
    assert count.tolist() == [2, 1]


def test_an_overflow_is_reported_and_the_rest_is_used(device: torch.device) -> None:
    k, capacity = 2, 14
    best = [Best(*empty_candidates(1, k, device)) for _ in range(2)]
    candidates = empty_candidates(1, capacity, device)
    tau = torch.empty(1, device=device)
    lost = torch.zeros(1, dtype=torch.int32, device=device)
    scores = torch.tensor([[7.0, 8.0]], device=device)
    select_dense(scores, None, candidates, first_column=0, k=k, floor=0, magnitude=False)
    candidates.lengths.fill_(capacity + 1)
    candidates.entries[0, 2:] = candidates.entries[0, 0]
    merge(best[0], candidates, best[1], tau, lost, k=k, magnitude=False)
    assert lost.tolist() == [1]
    assert candidates.lengths.tolist() == [0]
