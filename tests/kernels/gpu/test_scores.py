"""How scores are cut into chunks, and what a chunk holds."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bathyscope_kernels.gpu.scores import MAX_WORKSPACE_BYTES, Scores
from bathyscope_kernels.workspace import WORKSPACE_BYTES


def _wide(rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Scores:
    """Operands of d 4096 that take no memory."""
    one = torch.ones(1, 1, dtype=dtype, device=device)
    return Scores(one.expand(rows, 4096), one.expand(columns, 4096), None)


@pytest.mark.parametrize("rows", [1, 1000, 8192])
@pytest.mark.parametrize("allowed", [2**20, WORKSPACE_BYTES, 2**40])
def test_a_plan_stays_within_the_workspace(rows: int, allowed: int, device: torch.device) -> None:
    scores = _wide(rows, 131_072, device, torch.float32)
    plan = scores.plan(bytes_per_row=3000, workspace_bytes=allowed)
    used = plan.num_rows * (4 * plan.num_columns + 3000)
    assert used <= min(allowed, MAX_WORKSPACE_BYTES)
    assert 1 <= plan.num_rows <= rows
    assert 1 <= plan.num_columns <= 131_072
    # All of one row in one chunk, many rows in chunks wide enough for a matmul.
    assert rows > 1 or allowed < WORKSPACE_BYTES or plan.num_columns == 131_072
    assert rows < 8192 or allowed < WORKSPACE_BYTES or plan.num_rows % 128 == 0


def test_a_converted_chunk_of_W_counts(device: torch.device) -> None:
    scores = _wide(1000, 131_072, device, torch.bfloat16)
    plan = scores.plan(bytes_per_row=0, workspace_bytes=WORKSPACE_BYTES)
    copies = 0 if device.type == "cuda" else 4 * 4096 * (plan.num_rows + plan.num_columns)
    assert 4 * plan.num_rows * plan.num_columns + copies <= WORKSPACE_BYTES


@pytest.mark.parametrize("subset", [None, torch.tensor([1, 4, 5, 8])])
def test_a_chunk_holds_the_products(
    subset: Tensor | None, oracle: SimpleNamespace, device: torch.device
) -> None:
    x, W, b = oracle.eighths(5, 6, seed=1), oracle.eighths(9, 6, seed=2), oracle.eighths(9, seed=3)
    chosen = None if subset is None else subset.to(device)
    scores = Scores(x.to(device), W.to(device), b.to(device), chosen)
    scores.plan(bytes_per_row=0, workspace_bytes=WORKSPACE_BYTES)
    got, bias = scores.chunk(slice(1, 4), slice(2, 4)), scores.bias_of(slice(2, 4))
    columns = [2, 3] if subset is None else [5, 8]
    assert torch.equal(got.cpu().double(), x[1:4].double() @ W[columns].double().T)
    assert bias is not None
    assert torch.equal(bias.cpu(), b[columns])
    few = scores.rows(torch.tensor([3, 0], device=device))
    few.plan(bytes_per_row=0, workspace_bytes=WORKSPACE_BYTES)
    got = few.chunk(slice(0, 2), slice(2, 4)).cpu().double()
    assert torch.equal(got, x[[3, 0]].double() @ W[columns].double().T)
    assert few.bias is scores.bias


@pytest.mark.gpu
def test_scores_of_half_precision_are_not_rounded(
    oracle: SimpleNamespace, cuda: torch.device
) -> None:
    x, W = oracle.normal(100, 512, seed=4), oracle.normal(300, 512, seed=5)
    for dtype in (torch.bfloat16, torch.float16):
        left, right = x.to(cuda, dtype), W.to(cuda, dtype)
        scores = Scores(left, right, None)
        scores.plan(bytes_per_row=0, workspace_bytes=WORKSPACE_BYTES)
        got = scores.chunk(slice(0, 100), slice(0, 300)).double()
        wanted = left.double() @ right.double().T
        assert float((got - wanted).norm() / wanted.norm()) < 1e-5
