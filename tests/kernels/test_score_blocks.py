"""Score blocks: they cover the product once, and integers compare like scores."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope_kernels.score_blocks import (
    collect,
    orderable,
    orderable_magnitude,
    pieces,
    score_blocks,
    take,
)


@pytest.mark.parametrize("workspace_bytes", [256, 2**13, 2**26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (63, 65), (1000, 17), (3, 5000)])
def test_blocks_cover_the_product_once(
    oracle: SimpleNamespace, rows: int, columns: int, dtype: torch.dtype, workspace_bytes: int
) -> None:
    x, W = oracle.eighths(rows, 3, seed=0).to(dtype), oracle.eighths(columns, 3, seed=1).to(dtype)
    b = oracle.eighths(columns, seed=2).to(dtype)
    for bias in (None, b):
        product = torch.full((rows, columns), torch.nan, dtype=torch.float64)
        for block in score_blocks(x, W, bias, bytes_per_score=8, workspace_bytes=workspace_bytes):
            for piece in pieces(block, bytes_per_score=50, workspace_bytes=workspace_bytes):
                assert product[piece.rows, piece.columns].isnan().all()
                product[piece.rows, piece.columns] = piece.scores.double()
        expected = x.double() @ W.double().T + (0 if bias is None else b.double())
        assert torch.equal(product, expected)
        values, positions = collect(
            x, W, bias, lambda block: block.scores > 0.5, workspace_bytes=workspace_bytes
        )
        assert torch.equal(positions, (expected > 0.5).view(-1).nonzero().squeeze(1))
        assert torch.equal(values.double(), expected[expected > 0.5])


def test_positions_pass_two_to_the_32() -> None:
    # Row 3 of a matrix with 2^31 columns, of which only one block is looked at.
    block = next(score_blocks(torch.ones(5, 1), torch.ones(4, 1), None, bytes_per_score=8,
                              workspace_bytes=2**20))  # fmt: skip
    kept = torch.zeros(5, 4, dtype=torch.bool)
    kept[3, 2] = True
    values, positions = take(block._replace(columns=slice(7, 11)), kept, 2**31)
    assert values.tolist() == [1.0]
    assert positions.tolist() == [3 * 2**31 + 9]


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 32), (torch.float64, 64)])
def test_special_scores_are_in_order(dtype: torch.dtype, width: int) -> None:
    info = torch.finfo(dtype)
    rising = [-torch.inf, info.min, -1.0, -info.tiny, 0.0, info.tiny, 1.0, info.max, torch.inf]
    order = orderable(torch.tensor([*rising, torch.nan, -torch.nan, -0.0], dtype=dtype))
    assert order.dtype == (torch.int32 if width == 32 else torch.int64)
    assert (order[:10].diff() > 0).all()
    assert order[9] == order[10]
    assert order[11] == order[4]
    magnitude = orderable_magnitude(
        torch.tensor([-0.0, 0.0, -1.0, 1.0, -torch.inf, torch.inf, -torch.nan, torch.nan]).to(dtype)
    )
    assert magnitude[:2].tolist() == [0, 0]
    assert (magnitude[::2].diff() > 0).all()
    assert torch.equal(magnitude[::2], magnitude[1::2])


@settings(max_examples=200, deadline=None)
@given(
    st.floats(width=32, allow_nan=False),
    st.floats(width=32, allow_nan=False),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_integers_compare_like_scores(a: float, b: float, dtype: torch.dtype) -> None:
    scores = torch.tensor([a, b], dtype=dtype)
    first, second = orderable(scores).tolist()
    assert (first > second, first == second) == (a > b, a == b)
    first, second = orderable_magnitude(scores).tolist()
    assert (first > second, first == second) == (abs(a) > abs(b), abs(a) == abs(b))
