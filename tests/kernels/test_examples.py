"""Top examples: the state equals a sort of the whole stream, in any order and with repeats."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope_kernels import reference
from bathyscope_kernels.examples import no_examples, update_top_examples


def assert_same(state: tuple[torch.Tensor, torch.Tensor], expected: tuple) -> None:
    torch.testing.assert_close(state[0], expected[0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(state[1], expected[1])


def test_a_hand_worked_stream() -> None:
    state = no_examples(3, 2)
    assert state[0].tolist() == [[0, 0]] * 3
    assert state[1].tolist() == [[-1, -1]] * 3
    # Row 7 activates latents 0 and 2, row 4 only latent 0; unused slots are 0 at latent 0.
    first = torch.tensor([[1.0, 5.0], [2.0, 0.0]]), torch.tensor([[0, 2], [0, 0]])
    update_top_examples(*state, *first, torch.tensor([7, 4]))
    assert state[0].tolist() == [[2, 1], [0, 0], [5, 0]]
    assert state[1].tolist() == [[4, 7], [-1, -1], [7, -1]]
    # Equal to the worst of latent 0: the smaller row 3 takes its place, row 9 does not.
    second = torch.tensor([[1.0], [1.0]]), torch.tensor([[0], [0]])
    update_top_examples(*state, *second, torch.tensor([9, 3]))
    assert state[0][0].tolist() == [2, 1]
    assert state[1][0].tolist() == [4, 3]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(0, 10**6),
    st.integers(1, 20),
    st.booleans(),
)
def test_the_state_equals_a_sort_of_the_stream_in_any_order(
    oracle: SimpleNamespace,
    rows: int,
    latents: int,
    k: int,
    m: int,
    seed: int,
    batch: int,
    with_nan: bool,
) -> None:
    k = min(k, latents)
    values = oracle.eighths(rows, k, seed=seed, low=-2, high=4)
    indices = oracle.normal(rows, latents, seed=seed).topk(k).indices.to(torch.int32)
    if with_nan:
        values[seed % rows] = torch.nan
        values[rows // 2, 0] = torch.inf
    # Ids beyond 2^32, in no order.
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    row_ids = order * 2**33 + 5
    state = no_examples(latents, m)
    # All rows once, then some of them again in larger batches.
    again = torch.cat([torch.arange(rows), order[: rows // 2]])
    for part in again.split(batch):
        update_top_examples(*state, values[part], indices[part], row_ids[part])
    assert_same(state, reference.top_examples(latents, m, values, indices, row_ids))
    shuffled = no_examples(latents, m)
    for part in order.split(batch + 3):
        update_top_examples(*shuffled, values[part], indices[part], row_ids[part])
    assert_same(shuffled, state)


def test_a_triple_within_one_batch_is_kept_once() -> None:
    state = no_examples(1, 3)
    values, indices = torch.tensor([[2.0], [2.0], [torch.nan], [torch.nan]]), torch.zeros(4, 1)
    update_top_examples(*state, values, indices.int(), torch.tensor([8, 8, 6, 6]))
    assert state[1].tolist() == [[6, 8, -1]]
    # Another value of the same row is another triple.
    update_top_examples(*state, torch.tensor([[3.0]]), indices[:1].int(), torch.tensor([8]))
    assert state[1].tolist() == [[6, 8, 8]]
    assert state[0][0, 1:].tolist() == [3, 2]


def test_only_values_above_zero_and_nan_count() -> None:
    state = no_examples(1, 6)
    values = torch.tensor([[0.0], [-0.0], [-1.0], [-torch.inf], [torch.inf], [-torch.nan]])
    update_top_examples(*state, values, torch.zeros(6, 1).long(), torch.arange(6))
    assert state[1].tolist() == [[5, 4, -1, -1, -1, -1]]
    # Below the smallest float32 a float64 is no value either.
    update_top_examples(
        *state, torch.full((1, 1), 1e-300).double(), torch.zeros(1, 1).long(), torch.tensor([9])
    )
    assert state[1][0, 2] == -1


def test_empty_slots_are_known_by_their_row_alone() -> None:
    state = torch.full((2, 3), torch.nan), torch.full((2, 3), -1)
    update_top_examples(
        *state, torch.tensor([[1.0], [2.0]]), torch.tensor([[1], [1]]), torch.tensor([0, 1])
    )
    assert state[0][1].tolist() == [2, 1, 0]
    assert state[1].tolist() == [[-1, -1, -1], [1, 0, -1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_dtype_of_values_is_taken(oracle: SimpleNamespace, dtype: torch.dtype) -> None:
    values, row_ids = oracle.eighths(63, 2, seed=0), torch.arange(63)
    indices = oracle.normal(63, 5, seed=1).topk(2).indices
    state = no_examples(5, 4)
    update_top_examples(*state, values.to(dtype), indices, row_ids)
    assert_same(state, reference.top_examples(5, 4, values, indices, row_ids))


def test_a_state_that_does_not_change_is_not_copied(
    oracle: SimpleNamespace, peak_bytes: Callable[[Callable[[], object]], int]
) -> None:
    latents, m, rows, k = 20_000, 20, 64, 8
    state = torch.full((latents, m), 100.0), torch.arange(m).expand(latents, m).contiguous()
    values = oracle.normal(rows, k, seed=0).abs()
    indices = torch.arange(rows * k).view(rows, k)
    # 4.8 MB of state stay where they are; per triple the marks, the value, latent and row.
    peak = peak_bytes(lambda: update_top_examples(*state, values, indices, torch.arange(rows)))
    assert peak <= rows * k * 80
    values[0, 0] = 200.0
    peak = peak_bytes(lambda: update_top_examples(*state, values, indices, torch.arange(rows)))
    assert peak <= rows * k * 80 + m * 200
    assert state[0][0].tolist() == [200.0] + [100.0] * (m - 1)


def test_empty_batches_are_allowed() -> None:
    state = no_examples(3, 2)
    nothing = torch.zeros(0, dtype=torch.int64)
    update_top_examples(*state, torch.zeros(0, 4), torch.zeros(0, 4).int(), nothing)
    update_top_examples(*state, torch.zeros(2, 0), torch.zeros(2, 0).int(), torch.arange(2))
    assert (state[1] == -1).all()


def test_wrong_arguments_are_refused() -> None:
    best, rows = no_examples(3, 2)
    values, indices, ids = torch.ones(4, 2), torch.zeros(4, 2).int(), torch.arange(4)
    with pytest.raises(ValueError, match=r"best_rows \[3, 1\]; wanted both \[latents, m\]"):
        update_top_examples(best, rows[:, :1], values, indices, ids)
    with pytest.raises(ValueError, match=r"best_values of torch\.float64"):
        update_top_examples(best.double(), rows, values, indices, ids)
    with pytest.raises(ValueError, match=r"row_ids \[3\]; wanted values"):
        update_top_examples(best, rows, values, indices, ids[:3])
    with pytest.raises(ValueError, match=r"values of torch\.int64"):
        update_top_examples(best, rows, values.long(), indices, ids)
    with pytest.raises(ValueError, match=r"row_ids of torch\.int32"):
        update_top_examples(best, rows, values, indices, ids.int())
    with pytest.raises(ValueError, match="indices from 3 to 3, wanted 0 to 2"):
        update_top_examples(best, rows, values, indices + 3, ids)
    with pytest.raises(ValueError, match="row id -1"):
        update_top_examples(best, rows, values, indices, ids - 1)
    with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]"):
        update_top_examples(best, rows, values.to("meta"), indices, ids)
