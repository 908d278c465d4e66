"""How an interval answers a claim."""

from __future__ import annotations

import math

import pytest

from bathyscope.stages.studies.verdicts import sign_of

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "low", "high", "wanted"),
    [
        (0.3, 0.1, 0.5, "yes"),
        (-0.3, -0.5, -0.1, "no"),
        (0.3, -0.1, 0.7, "not shown"),
        (0.3, 0.0, 0.7, "not shown"),
        (0.3, NAN, NAN, "not shown"),
        (NAN, NAN, NAN, "not measured"),
    ],
)
def test_the_sign_of_a_figure(value: float, low: float, high: float, wanted: str) -> None:
    assert sign_of(value, low, high) == wanted
