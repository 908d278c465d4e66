"""Tensors of every shape become rows, and come back."""

from __future__ import annotations

import pytest
import torch

from bathyscope.errors import HookPointError
from bathyscope.models.row_rules import RowShape, as_tensor, row_shape, rows_of


def test_sequences_are_rows_already() -> None:
    x = torch.randn(2, 3, 4)
    assert rows_of("a", x, 2) is x


def test_one_vector_per_item_has_one_position() -> None:
    x = torch.randn(2, 4)
    assert torch.equal(rows_of("a", x, 2), x[:, None])
    assert row_shape("a", x, 2) == RowShape(1, 4)


def test_flattened_tokens_go_back_to_their_items() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(rows_of("router", x.flatten(0, 1), 2), x)


def test_maps_are_read_row_by_row_with_channels_as_width() -> None:
    x = torch.arange(2 * 3 * 2 * 4, dtype=torch.float32).reshape(2, 3, 2, 4)
    rows = rows_of("conv", x, 2)
    assert rows.shape == (2, 8, 3)
    # Position 5 of a map of width 4 is row 1, column 1.
    assert torch.equal(rows[1, 5], x[1, :, 1, 1])
    assert torch.equal(rows_of("conv", x.permute(0, 2, 3, 1), 2, channels_last=True), rows)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 4), (6, 4), (2, 3, 2, 4)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_rows_come_back_to_where_they_were(shape: tuple[int, ...], channels_last: bool) -> None:
    x = torch.randn(shape)
    rows = rows_of("a", x, 2, channels_last=channels_last)
    assert torch.equal(as_tensor(rows, x, channels_last=channels_last), x)


def test_no_data_is_needed() -> None:
    x = torch.empty(2, 3, 5, 5, device="meta")
    assert row_shape("conv", x, 2) == RowShape(25, 3)


@pytest.mark.parametrize(
    "shape", [(), (4,), (3, 3, 4), (5, 4), (2, 2, 2, 2, 2), (0, 4), (3, 1, 1, 1)]
)
def test_other_shapes_are_refused_with_what_was_seen(shape: tuple[int, ...]) -> None:
    with pytest.raises(HookPointError, match=rf"^odd gives \[{', '.join(map(str, shape))}\] for 2"):
        rows_of("odd", torch.zeros(shape), 2)


def test_numbers_of_tokens_are_no_rows() -> None:
    with pytest.raises(HookPointError, match=r"gives torch\.int64"):
        rows_of("ids", torch.zeros(2, 3, dtype=torch.int64), 2)
