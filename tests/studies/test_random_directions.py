"""Random directions: closed forms in few dimensions, limits in many, published measurements."""

from __future__ import annotations

import math

import pytest
import torch

from bathyscope.studies import random_directions as theory


def test_one_dimension_leaves_no_choice() -> None:
    assert theory.squared_overlap(1) == 1
    assert theory.absolute_overlap(1) == pytest.approx(1)
    assert theory.row_maximum(5, 1) == 1
    assert theory.welch(5, 1) == pytest.approx(1)


def test_circle_and_sphere_worked_by_hand() -> None:
    # |cos φ| over a circle, and |z| over a sphere, which is uniform.
    assert theory.absolute_overlap(2) == pytest.approx(2 / math.pi)
    assert theory.absolute_overlap(3) == pytest.approx(1 / 2)
    assert theory.row_maximum(2, 3) == pytest.approx(1 / 2, abs=1e-6)
    # The largest of four uniform numbers.
    assert theory.row_maximum(5, 3) == pytest.approx(4 / 5, abs=1e-6)


def test_many_dimensions_come_to_the_limit() -> None:
    for width in (64, 768, 100_000):
        limit = math.sqrt(2 / (math.pi * width))
        assert theory.absolute_overlap(width) / limit - 1 == pytest.approx(1 / (4 * width), rel=0.1)


def test_published_measurements_and_their_bounds() -> None:
    assert theory.row_maximum(16384, 768) == pytest.approx(0.1486, abs=2e-4)
    assert theory.row_maximum_bound(16384, 768) == pytest.approx(0.165, abs=5e-4)
    assert theory.welch(16384, 768) == pytest.approx(0.0352, abs=5e-5)
    assert theory.absolute_overlap(512) == pytest.approx(0.0353, abs=5e-5)
    assert theory.row_maximum(4096, 512) == pytest.approx(0.1667, abs=5e-4)


@pytest.mark.parametrize(("num_rows", "width"), [(10**6, 4096), (10**6, 10**5), (2, 10**5)])
def test_row_maximum_stays_between_mean_and_bound_at_large_sizes(num_rows: int, width: int) -> None:
    found = theory.row_maximum(num_rows, width)

    assert theory.absolute_overlap(width) * (1 - 1e-6) <= found
    assert found < theory.row_maximum_bound(num_rows, width)


def test_row_maximum_agrees_with_a_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(2000, 20, generator=generator, dtype=torch.float64)
    W /= W.norm(dim=1, keepdim=True)
    drawn = (W @ W.T).abs().fill_diagonal_(0).amax(1).mean()

    assert float(drawn) == pytest.approx(theory.row_maximum(2000, 20), rel=5e-3)


def test_fewer_directions_than_dimensions_have_no_welch_bound() -> None:
    assert theory.welch(3, 3) == 0
    assert theory.welch(1, 4) == 0
    assert math.isnan(theory.row_maximum(1, 4))
    assert theory.row_maximum_bound(2, 1) == 1


def test_sizes_of_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="0 directions of width 3"):
        theory.welch(0, 3)
    with pytest.raises(ValueError, match="of width 0"):
        theory.squared_overlap(0)
