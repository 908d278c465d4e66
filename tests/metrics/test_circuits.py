"""Faithfulness and areas by hand."""

from __future__ import annotations

import math

import pytest

from bathyscope.metrics.circuits import SIZES, cmd, cpr, faithfulness


def test_faithfulness_by_hand() -> None:
    assert faithfulness(2.0, 1.0, 3.0) == 0.5
    assert faithfulness(3.0, 1.0, 3.0) == 1
    # Worse than nothing, and more than the model.
    assert faithfulness(0.0, 1.0, 3.0) == -0.5
    assert faithfulness(-4.0, -1.0, -3.0) == 1.5


def test_a_metric_that_ablation_does_not_change_has_no_faithfulness() -> None:
    assert math.isnan(faithfulness(2.0, 3.0, 3.0))
    assert math.isnan(faithfulness(2.0, 3.0, 3.0 + 1e-9))


def test_areas_by_hand() -> None:
    sizes, values = [0.2, 0.6, 1.0], [0.0, 1.5, 1.0]
    # 0.4 * 0.75 + 0.4 * 1.25, and of |1 - f| = 1, 0.5, 0: 0.4 * 0.75 + 0.4 * 0.25.
    assert cpr(sizes, values) == pytest.approx(0.8)
    assert cmd(sizes, values) == pytest.approx(0.4)


def test_a_perfect_circuit_has_the_width_and_nothing() -> None:
    ones = [1.0] * len(SIZES)
    assert cpr(SIZES, ones) == pytest.approx(0.999)
    assert cmd(SIZES, ones) == 0


@pytest.mark.parametrize("sizes", [[], [0.5, 0.2], [0.0, 1.0], [0.5, 1.5], [0.1, 0.2, 0.3]])
def test_sizes_that_are_no_shares_are_refused(sizes: list[float]) -> None:
    with pytest.raises(ValueError, match="shares that ascend"):
        cpr(sizes, [1.0, 1.0])
