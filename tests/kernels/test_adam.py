"""Row-sparse Adam: equal to torch.optim.Adam with the dense gradient, or lazy where asked."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels import RowSparseAdam, row_sparse_adam
from bathyscope_kernels.ragged_backward import as_rows

pytestmark = pytest.mark.usefixtures("path")


def gradients(rows: int, d: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Some rows and their gradients for each step; one step has none, one has all."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for step in range(steps):
        size = {1: 0, 2: rows}.get(step, (rows + 1) // 2)
        listed = torch.randperm(rows, generator=generator)[:size].sort().values
        found.append((listed, torch.randn(size, d, generator=generator)))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "d"), [(1, 1), (65, 63), (200, 16), (1000, 33)])
def test_every_row_moves_as_with_a_dense_gradient(rows: int, d: int, dtype: torch.dtype) -> None:
    start = torch.randn(rows, d, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    mine = RowSparseAdam([ours], lr=0.01, betas=(0.8, 0.95), eps=1e-6)
    other = torch.optim.Adam([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-6)
    for listed, values in gradients(rows, d, 6):
        ours.grad = as_rows(listed, values.to(dtype), rows)
        theirs.grad = ours.grad.to_dense()
        mine.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(
            mine.state[ours][name], other.state[theirs][name], rtol=1e-5, atol=1e-7
        )


def test_dense_gradients_and_biases_are_plain_adam(oracle: SimpleNamespace) -> None:
    shapes = ((30, 7), (13,))
    ours = [torch.nn.Parameter(oracle.normal(*s, seed=1)) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    mine, other = RowSparseAdam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1)
    for step in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = oracle.normal(*a.shape, seed=step)
            b.grad = a.grad.clone()
        mine.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_sum_of_two_row_sparse_gradients_is_summed_first() -> None:
    ours, theirs = (torch.nn.Parameter(torch.ones(6, 4)) for _ in range(2))
    one = as_rows(torch.tensor([1, 3]), torch.ones(2, 4), 6)
    two = as_rows(torch.tensor([3, 5]), torch.full((2, 4), -3.0), 6)
    ours.grad = one + two
    theirs.grad = ours.grad.to_dense()
    assert theirs.grad[3].tolist() == [-2.0] * 4
    RowSparseAdam([ours], lr=0.1).step()
    torch.optim.Adam([theirs], lr=0.1).step()
    torch.testing.assert_close(ours, theirs)


def test_lazy_leaves_rows_without_a_gradient_alone() -> None:
    parameter = torch.nn.Parameter(torch.ones(5, 3))
    optimizer = RowSparseAdam([parameter], lr=0.1, lazy=True)
    parameter.grad = as_rows(torch.tensor([1, 2]), torch.ones(2, 3), 5)
    optimizer.step()
    parameter.grad = as_rows(torch.tensor([2]), torch.ones(1, 3), 5)
    optimizer.step()
    assert torch.equal(parameter[[0, 3, 4]], torch.ones(3, 3))
    # By hand: gradients of one sign and size move by lr a step.
    torch.testing.assert_close(parameter[1], torch.full((3,), 0.9))
    torch.testing.assert_close(parameter[2], torch.full((3,), 0.8))
    assert torch.equal(optimizer.state[parameter]["exp_avg"][0], torch.zeros(3))


def test_unit_rows_are_unit_after_the_step_and_zeros_stay() -> None:
    start = torch.randn(70, 19, generator=torch.Generator().manual_seed(0))
    start[4] = 0
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    listed = torch.tensor([0, 7, 69])
    values = torch.randn(3, 19, generator=torch.Generator().manual_seed(1))
    ours.grad = as_rows(listed, values, 70)
    theirs.grad = ours.grad.to_dense()
    RowSparseAdam([ours], lr=0.05, unit_rows=True).step()
    torch.optim.Adam([theirs], lr=0.05).step()
    wanted = torch.nn.functional.normalize(theirs.detach(), dim=1)
    torch.testing.assert_close(ours.detach(), wanted)
    assert not ours[4].any()


def test_its_state_goes_into_a_file_and_back(oracle: SimpleNamespace) -> None:
    def fresh() -> tuple[torch.nn.Parameter, RowSparseAdam]:
        parameter = torch.nn.Parameter(oracle.normal(9, 4, seed=0))
        return parameter, RowSparseAdam([parameter], lr=0.1)

    def step(parameter: torch.nn.Parameter, optimizer: RowSparseAdam, seed: int) -> None:
        parameter.grad = as_rows(torch.tensor([2, 5]), oracle.normal(2, 4, seed=seed), 9)
        optimizer.step()

    straight, first = fresh()
    step(straight, first, 1)
    resumed, second = fresh()
    with torch.no_grad():
        resumed.copy_(straight)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    step(straight, first, 2)
    step(resumed, second, 2)
    assert torch.equal(straight, resumed)


def test_a_single_function_call_counts_steps_from_one() -> None:
    parameter, m, v = torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)
    row_sparse_adam(parameter, m, v, torch.tensor([1]), torch.full((1, 3), 4.0), step=1, lr=0.5)
    assert torch.equal(parameter[0], torch.zeros(3))
    torch.testing.assert_close(parameter[1], torch.full((3,), -0.5))
    torch.testing.assert_close(m[1], torch.full((3,), 0.4))
    torch.testing.assert_close(v[1], torch.full((3,), 0.016))


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"eps": -1e-8}, {"betas": (1.0, 0.9)}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="wanted lr >= 0"):
        RowSparseAdam([torch.nn.Parameter(torch.zeros(2))], **wrong)  # type: ignore[arg-type]
