"""Top examples on the GPU kernels: the state equals a sort of the whole stream, in any order."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels import examples as portable
from bathyscope_kernels import reference
from bathyscope_kernels.examples import no_examples
from bathyscope_kernels.gpu.examples import update_top_examples

pytestmark = pytest.mark.usefixtures("poisoned")


def assert_same(state: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(state[0].cpu(), expected[0].cpu(), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(state[1].cpu(), expected[1].cpu())


def update(state: tuple[Tensor, Tensor], *batch: Tensor) -> None:
    update_top_examples(*state, *(tensor.to(state[0].device) for tensor in batch))


def test_a_hand_worked_stream(device: torch.device) -> None:
    state = no_examples(3, 2, device=device)
    # Row 7 activates latents 0 and 2, row 4 only latent 0; unused slots are 0 at latent 0.
    first = torch.tensor([[1.0, 5.0], [2.0, 0.0]]), torch.tensor([[0, 2], [0, 0]])
    update(state, *first, torch.tensor([7, 4]))
    assert state[0].tolist() == [[2, 1], [0, 0], [5, 0]]
    assert state[1].tolist() == [[4, 7], [-1, -1], [7, -1]]
    # Equal to the worst of latent 0: the smaller row 3 takes its place, row 9 does not.
    second = torch.tensor([[1.0], [1.0]]), torch.tensor([[0], [0]])
    update(state, *second, torch.tensor([9, 3]))
    assert state[0][0].tolist() == [2, 1]
    assert state[1][0].tolist() == [4, 3]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("rows", "latents", "k", "m", "batch"),
    [(60, 9, 6, 5, 13), (63, 5, 3, 1, 20), (65, 3, 1, 33, 30), (1, 1, 1, 2, 1), (40, 2, 2, 17, 40)],
)
def test_the_state_equals_a_sort_of_the_stream_in_any_order(
    device: torch.device,
    oracle: SimpleNamespace,
    rows: int,
    latents: int,
    k: int,
    m: int,
    batch: int,
    seed: int,
) -> None:
    values = oracle.eighths(rows, k, seed=seed, low=-2, high=4)
    indices = oracle.normal(rows, latents, seed=seed).topk(k).indices.to(torch.int32)
    if seed % 2:
        values[seed % rows] = torch.nan
        values[rows // 2, 0] = torch.inf
    # Ids beyond 2^32, in no order.
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    row_ids = order * 2**33 + 5
    expected = reference.top_examples(latents, m, values, indices, row_ids)
    state = no_examples(latents, m, device=device)
    # All rows once, then some of them again in larger batches.
    for part in torch.cat([torch.arange(rows), order[: rows // 2]]).split(batch):
        update(state, values[part], indices[part], row_ids[part])
    assert_same(state, expected)
    shuffled = no_examples(latents, m, device=device)
    for part in order.split(batch + 3):
        update(shuffled, values[part], indices[part], row_ids[part])
    assert_same(shuffled, expected)


def test_more_rows_than_a_program_marks(device: torch.device, oracle: SimpleNamespace) -> None:
    values = oracle.eighths(1000, 3, seed=0)
    indices = oracle.normal(1000, 7, seed=1).topk(3).indices
    state, row_ids = no_examples(7, 9, device=device), torch.arange(1000).flip(0)
    update(state, values, indices, row_ids)
    assert_same(state, reference.top_examples(7, 9, values, indices, row_ids))


def test_a_triple_is_kept_once_within_a_batch_and_across(device: torch.device) -> None:
    state, zeros = no_examples(1, 3, device=device), torch.zeros(4, 1).int()
    values = torch.tensor([[2.0], [2.0], [torch.nan], [torch.nan]])
    for _ in range(2):
        update(state, values, zeros, torch.tensor([8, 8, 6, 6]))
        assert state[1].tolist() == [[6, 8, -1]]
    # Another value of the same row is another triple.
    update(state, torch.tensor([[3.0]]), zeros[:1], torch.tensor([8]))
    assert state[1].tolist() == [[6, 8, 8]]
    assert state[0][0, 1:].tolist() == [3, 2]


def test_only_values_above_zero_and_nan_count(device: torch.device) -> None:
    state = no_examples(1, 6, device=device)
    values = torch.tensor([[0.0], [-0.0], [-1.0], [-torch.inf], [torch.inf], [-torch.nan]])
    update(state, values, torch.zeros(6, 1).long(), torch.arange(6))
    assert state[1].tolist() == [[5, 4, -1, -1, -1, -1]]
    # Below the smallest float32 a float64 is no value either.
    tiny = torch.full((1, 1), 1e-300).double()
    update(state, tiny, torch.zeros(1, 1).long(), torch.tensor([9]))
    assert state[1][0, 2] == -1


def test_empty_slots_are_known_by_their_row_alone(device: torch.device) -> None:
    state = torch.full((2, 3), torch.nan, device=device), torch.full((2, 3), -1, device=device)
    update(state, torch.tensor([[1.0], [2.0]]), torch.tensor([[1], [1]]), torch.tensor([0, 1]))
    assert state[0][1].tolist() == [2, 1, 0]
    assert state[1].tolist() == [[-1, -1, -1], [1, 0, -1]]
    assert state[0][0].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_dtype_of_values_is_taken(
    device: torch.device, oracle: SimpleNamespace, dtype: torch.dtype
) -> None:
    values, row_ids = oracle.eighths(63, 2, seed=0), torch.arange(63)
    indices = oracle.normal(63, 5, seed=1).topk(2).indices
    state = no_examples(5, 4, device=device)
    update(state, values.to(dtype), indices, row_ids)
    assert_same(state, reference.top_examples(5, 4, values, indices, row_ids))


def test_only_latents_that_get_something_are_written(
    device: torch.device, oracle: SimpleNamespace
) -> None:
    latents, m = 2000, 20
    state = (
        torch.full((latents, m), 100.0, device=device),
        torch.arange(m, device=device).expand(latents, m).contiguous(),
    )
    values = oracle.normal(64, 8, seed=0).abs()
    indices = torch.arange(64 * 8).view(64, 8)
    before = [tensor.clone() for tensor in state]
    update(state, values, indices, torch.arange(64))
    assert_same(state, (before[0], before[1]))
    values[3, 2] = 200.0
    update(state, values, indices, torch.arange(64))
    assert state[0][26].tolist() == [200.0] + [100.0] * (m - 1)
    assert state[1][26].tolist() == [3, *range(m - 1)]
    before[0][26], before[1][26] = state[0][26], state[1][26]
    assert_same(state, (before[0], before[1]))


def test_empty_batches_are_allowed(device: torch.device) -> None:
    state = no_examples(3, 2, device=device)
    update(state, torch.zeros(0, 4), torch.zeros(0, 4).int(), torch.zeros(0, dtype=torch.int64))
    update(state, torch.zeros(2, 0), torch.zeros(2, 0).int(), torch.arange(2))
    assert (state[1] == -1).all()


def test_wrong_arguments_are_refused(device: torch.device) -> None:
    best, rows = no_examples(3, 2, device=device)
    values, indices = torch.ones(4, 2, device=device), torch.zeros(4, 2, device=device).int()
    ids = torch.arange(4, device=device)
    with pytest.raises(ValueError, match=r"best_rows \[3, 1\]; wanted both \[latents, m\]"):
        update_top_examples(best, rows[:, :1], values, indices, ids)
    with pytest.raises(ValueError, match="1025 examples per latent, wanted at most 1024"):
        update_top_examples(*no_examples(3, 1025, device=device), values, indices, ids)
    with pytest.raises(ValueError, match=r"best_values of torch\.float64"):
        update_top_examples(best.double(), rows, values, indices, ids)
    with pytest.raises(ValueError, match="a state that is not contiguous"):
        update_top_examples(best.T, rows.T, values, indices, ids)
    with pytest.raises(ValueError, match=r"row_ids \[3\]; wanted values"):
        update_top_examples(best, rows, values, indices, ids[:3])
    with pytest.raises(ValueError, match=r"values of torch\.int64"):
        update_top_examples(best, rows, values.long(), indices, ids)
    with pytest.raises(ValueError, match=r"row_ids of torch\.int32"):
        update_top_examples(best, rows, values, indices, ids.int())
    with pytest.raises(ValueError, match="wanted one device"):
        update_top_examples(best, rows, values.to("meta"), indices, ids)


@pytest.mark.gpu
def test_a_long_stream_equals_the_portable_function(cuda: torch.device) -> None:
    latents, m, rows, k = 24576, 50, 4096, 32
    generator = torch.Generator(cuda).manual_seed(0)
    ours, theirs = (no_examples(latents, m, device=cuda) for _ in range(2))
    for batch in range(20):
        values = torch.randint(1, 2000, (rows, k), device=cuda, generator=generator) / 8
        indices = torch.randint(latents, (rows, k), device=cuda, generator=generator).int()
        indices[:, 0] = 5
        row_ids = torch.arange(batch * rows, (batch + 1) * rows, device=cuda)
        update_top_examples(*ours, values, indices, row_ids)
        portable.update_top_examples(*theirs, values, indices, row_ids)
        assert_same(ours, theirs)
