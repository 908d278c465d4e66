"""A model of selection in stages with pruning: lossless for any scores, and how much survives.

The model is the algorithm of the GPU's filter without its arithmetic: columns come in ranges that
double, each stage drops what is not above the row's k-th best so far, at most `capacity` survivors
of a stage find a slot, in any order, and rows with more are selected again as a whole.
"""

from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bathyscope_kernels.keys import pack_keys, unpack_keys

_NO_KEY = torch.iinfo(torch.int64).min


class Staged(NamedTuple):
    values: Tensor
    indices: Tensor
    survivors: Tensor
    """[stages, rows]: how many scores pass the filter in each stage after the first."""
    overflowed: Tensor
    """[rows] bool."""


def stage_ends(total: int, first: int) -> list[int]:
    """Where the ranges end: first, 2 first, 4 first and so on, up to the total."""
    ends = [min(first, total)]
    while ends[-1] < total:
        ends.append(min(2 * ends[-1], total))
    return ends


def staged_topk(
    scores: Tensor, k: int, *, first: int, capacity: int, generator: torch.Generator
) -> Staged:
    """Select the k largest positive scores per row in stages; all rows at once."""
    rows, total = scores.shape
    ends = stage_ends(total, first)
    keys = _best_keys(_keys(scores[:, : ends[0]], 0), k)
    overflowed = torch.zeros(rows, dtype=torch.bool)
    survivors = []
    for start, end in pairwise(ends):
        block = scores[:, start:end]
        # The k-th best so far; before there are k, and for the ReLU, zero.
        tau = unpack_keys(keys[:, k - 1 :])[0].masked_fill(keys[:, k - 1 :] == _NO_KEY, 0)
        # Strict: of equals the earlier column wins. Negated, so that NaN passes; a NaN as tau lets
        # nothing pass, since all NaN are equal.
        passing = ~(block <= tau) & ~tau.isnan()
        survivors.append(passing.sum(1))
        overflowed |= survivors[-1] > capacity
        found = _keys(block, start).masked_fill(~passing, _NO_KEY)
        # Slots are taken in any order: shuffle, then keep the first `capacity` that pass.
        shuffled = found[:, torch.randperm(end - start, generator=generator)]
        rank = (shuffled != _NO_KEY).cumsum(1)
        in_slots = shuffled.masked_fill(rank > capacity, _NO_KEY)
        keys = _best_keys(torch.cat([keys, in_slots], dim=1), k)
    if overflowed.any():
        keys[overflowed] = _best_keys(_keys(scores[overflowed], 0), k)
    unused = keys == _NO_KEY
    values, indices = unpack_keys(keys)
    stages = torch.stack(survivors) if survivors else torch.zeros(0, rows, dtype=torch.int64)
    return Staged(values.masked_fill(unused, 0), indices.masked_fill(unused, 0), stages, overflowed)


def _keys(scores: Tensor, start: int) -> Tensor:
    columns = torch.arange(start, start + scores.shape[1])
    return pack_keys(scores, columns).masked_fill(scores <= 0, _NO_KEY)


def _best_keys(keys: Tensor, k: int) -> Tensor:
    keys = torch.nn.functional.pad(keys, (0, k), value=_NO_KEY)
    return keys.sort(dim=1, descending=True).values[:, :k]


def stable_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, indices = torch.sort(scores, dim=1, descending=True, stable=True)
    unused = values[:, :k] <= 0
    return values[:, :k].masked_fill(unused, 0), indices[:, :k].masked_fill(unused, 0)


def assert_lossless(scores: Tensor, k: int, first: int, capacity: int, seed: int = 0) -> Staged:
    staged = staged_topk(
        scores, k, first=first, capacity=capacity, generator=torch.Generator().manual_seed(seed)
    )
    values, indices = stable_topk(scores, k)
    torch.testing.assert_close(staged.values, values, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(staged.indices, indices)
    return staged


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 150),
    st.integers(1, 40),
    st.integers(1, 60),
    st.sampled_from(["shuffled", "ascending", "descending", "late block"]),
    st.lists(st.sampled_from([torch.nan, -torch.nan, torch.inf, -torch.inf, -0.0]), max_size=4),
    st.integers(0, 10**6),
    st.data(),
)
def test_nothing_is_lost_for_any_scores_and_any_order(
    rows: int,
    total: int,
    first: int,
    capacity: int,
    order: str,
    special: list[float],
    seed: int,
    data: st.DataObject,
) -> None:
    k = data.draw(st.integers(1, total))
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values, hence many ties, and about half not positive.
    scores = torch.randint(-6, 7, (rows, total), generator=generator).float() / 8
    for place, value in enumerate(special):
        scores[place % rows, (seed + 17 * place) % total] = value
    if order in ("ascending", "descending"):
        scores = scores.sort(dim=1, descending=order == "descending").values
    if order == "late block":
        scores[:, total * 3 // 4 :] += 1
    assert_lossless(scores, k, first, capacity, seed)


def test_all_equal_scores_pass_no_filter() -> None:
    staged = assert_lossless(torch.ones(3, 1000), 5, first=10, capacity=1)
    assert not staged.survivors.any()
    assert not staged.overflowed.any()


def test_ascending_columns_overflow_and_are_selected_again() -> None:
    scores = torch.arange(1.0, 1001.0).expand(4, 1000).clone()
    # One row is in descending order: it needs no second selection.
    scores[2] = scores[2].flip(0)
    staged = assert_lossless(scores, 8, first=100, capacity=8)
    assert staged.overflowed.tolist() == [True, True, False, True]
    # Every later score beats all before it.
    assert staged.survivors[:, 0].tolist() == [100, 200, 400, 200]
    assert not staged.survivors[:, 2].any()


def test_a_row_of_nan_keeps_the_first_ones() -> None:
    scores = torch.full((2, 300), torch.nan)
    scores[1, :299] = 1.0
    staged = assert_lossless(scores, 4, first=16, capacity=4)
    assert staged.indices.tolist() == [[0, 1, 2, 3], [299, 0, 1, 2]]
    assert staged.survivors.sum(0).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("total", "first", "k", "rows"),
    [(24_576, 1536, 32, 200), (8000, 250, 5, 1000), (4000, 250, 1, 1000)],
)
def test_about_k_survive_each_doubling_of_exchangeable_columns(
    total: int, first: int, k: int, rows: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(rows, total, generator=generator)
    # 4 k alone is 2.1 sqrt(k) deviations above the mean: too few for a small k.
    staged = assert_lossless(scores, k, first, 4 * k + 32)
    assert not staged.overflowed.any()
    ends = stage_ends(total, first)
    for (start, end), passed in zip(pairwise(ends), staged.survivors, strict=True):
        new = end - start
        # Of new scores, those above the k-th of `start` exchangeable ones: negative
        # hypergeometric, with this mean (k for a doubling) and variance.
        mean = k * new / (start + 1)
        variance = mean * (start + 1 + new) * (start + 1 - k) / ((start + 1) * (start + 2))
        error = (variance / rows) ** 0.5
        assert abs(passed.double().mean().item() - mean) < 5 * error
        assert passed.double().var().item() == pytest.approx(variance, rel=0.5)


def test_the_mean_is_k_for_each_doubling_at_a_large_shape() -> None:
    # 4096 columns first, then five doublings to 131,072, k = 64: 320 survivors per row.
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(40, 131_072, generator=generator)
    staged = assert_lossless(scores, 64, first=4096, capacity=256)
    # A variance of about 2 k per doubling.
    error = (5 * 2 * 64 / 40) ** 0.5
    assert abs(staged.survivors.sum(0).double().mean().item() - 320) < 4 * error
