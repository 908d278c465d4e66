"""Equal tokens per parameter: the ratio that all have, and values between checkpoints, by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from bathyscope.studies.equal_training import around, at_tokens, common_ratio


def test_the_ratio_is_the_largest_that_all_have_reached() -> None:
    # Ends of 8, 4 and 1/3 tokens per parameter; beginnings of 0.1, 0.2 and 0.01.
    ratio = common_ratio([10, 20, 300], [[1, 80], [4, 80], [3, 100]])
    assert ratio == Fraction(1, 3)
    # The model it comes from is at its checkpoint, where 100 / 300 · 300 in floats might not be.
    assert around([3, 100], ratio * 300) == (100, 100)


@pytest.mark.parametrize(
    ("parameters", "tokens"),
    [
        ([10, 20], [[1, 80], []]),  # One without checkpoints.
        ([10, 100], [[50, 80], [1, 100]]),  # It begins at 5 a parameter, the other ends at 1.
        ([], []),
    ],
)
def test_without_a_common_ratio_there_is_none(
    parameters: list[int], tokens: list[list[int]]
) -> None:
    assert common_ratio(parameters, tokens) is None


def test_one_checkpoint_each_at_one_ratio_is_enough() -> None:
    assert common_ratio([10, 20], [[30], [60]]) == 3


@pytest.mark.parametrize(
    ("parameters", "tokens", "words"),
    [
        ([10], [[1], [2]], "1 models and the checkpoints of 2"),
        ([0], [[1]], "at least 1"),
        ([10], [[0, 5]], "leave first weights out"),
    ],
)
def test_bad_input_is_refused(parameters: list[int], tokens: list[list[int]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        common_ratio(parameters, tokens)


def test_values_lie_on_a_line_in_the_logarithm_of_tokens() -> None:
    points = [(10, 1.0), (1000, 3.0), (100_000, 3.0)]
    assert at_tokens(points, Fraction(100)) == pytest.approx(2.0)
    assert at_tokens(points, Fraction(10)) == 1.0
    assert at_tokens(points, Fraction(100_000)) == 3.0
    assert at_tokens(list(reversed(points)), Fraction(5000)) == 3.0
    # What is linear in ln tokens is found exactly, whatever the checkpoints.
    line = [(t, 2 * math.log(t) - 1) for t in (3, 7, 19, 51)]
    assert at_tokens(line, Fraction(25, 2)) == pytest.approx(2 * math.log(12.5) - 1)


@pytest.mark.parametrize("wanted", [9, 1001])
def test_nothing_is_extrapolated(wanted: int) -> None:
    with pytest.raises(ValueError, match="wanted one before and one after"):
        at_tokens([(10, 1.0), (1000, 3.0)], Fraction(wanted))
    with pytest.raises(ValueError, match="outside of the checkpoints"):
        around([], Fraction(wanted))


def test_a_value_that_is_not_a_number_stays_one() -> None:
    assert math.isnan(at_tokens([(10, math.nan), (1000, 3.0)], Fraction(100)))
