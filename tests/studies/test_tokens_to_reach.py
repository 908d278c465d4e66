"""Tokens to a loss: between points, before the first step, and never."""

from __future__ import annotations

import math

import pytest

from bathyscope.errors import FitError, NonFiniteError
from bathyscope.studies.tokens_to_reach import Reached, measured_after, tokens_to_reach

TOKENS, LOSS = [0, 100, 400, 1600], [1.0, 0.8, 0.4, 0.2]


def test_between_two_points_the_loss_is_straight_over_ln_tokens() -> None:
    # Half way from 0.8 to 0.4 is half way from ln 100 to ln 400.
    assert tokens_to_reach(TOKENS, LOSS, 0.6).tokens == pytest.approx(200)
    assert tokens_to_reach(TOKENS, LOSS, 0.4) == Reached(pytest.approx(400), "")  # type: ignore[arg-type]
    # Before the first point over tokens: 0.9 is half way from 1 to 0.8.
    assert tokens_to_reach(TOKENS, LOSS, 0.9).tokens == pytest.approx(50)


def test_a_curve_that_is_there_at_once_or_never_says_so() -> None:
    assert tokens_to_reach(TOKENS, LOSS, 1.0) == Reached(0.0, "start")
    assert tokens_to_reach(TOKENS, LOSS, 0.1) == Reached(1600.0, "never")
    assert tokens_to_reach([100, 200], [0.5, 0.4], 0.6) == Reached(100.0, "")
    assert tokens_to_reach([0], [0.5], 0.4) == Reached(0.0, "never")


def test_a_curve_that_gets_worse_again_has_reached_it() -> None:
    found = tokens_to_reach([0, 100, 200, 400], [1.0, 0.5, 0.9, 0.4], 0.5)
    assert found == Reached(100.0, "")
    assert tokens_to_reach([0, 100, 200], [0.3, 0.9, 0.2], 0.5) == Reached(0.0, "start")


@pytest.mark.parametrize(
    ("tokens", "loss", "level", "error", "words"),
    [
        ([0, 100], [1, 0.5], math.nan, FitError, "wanted a finite loss"),
        ([100, 100], [1, 0.5], 0.5, FitError, "rise"),
        ([-1, 100], [1, 0.5], 0.5, FitError, "rise"),
        ([0, 100], [1, math.nan], 0.5, NonFiniteError, "loss"),
        ([], [], 0.5, FitError, "at least one point"),
    ],
)
def test_what_is_no_curve_is_refused(
    tokens: list[float], loss: list[float], level: float, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        tokens_to_reach(tokens, loss, level)


def test_steps_are_even_in_their_logarithm() -> None:
    assert measured_after(16, 1) == [0, 1, 2, 4, 8, 16]
    assert measured_after(20, 2, shares=(1 / 4, 1.0)) == [0, 1, 2, 3, 4, 5, 6, 8, 11, 16, 20]
    assert measured_after(1, 2) == [0, 1]
    assert len(measured_after(10**6, 2)) < 45
    with pytest.raises(FitError, match="at least 1"):
        measured_after(0, 2)
