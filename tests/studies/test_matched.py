"""Matching at equal loss: curves made by hand, and each way in which they do not match."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest

from bathyscope.errors import NonFiniteError
from bathyscope.studies.matched import Checkpoint, Matched, match_capability

SMALL = Checkpoint(step=1000, loss=3.0, value=0.2)


def match(losses: Sequence[float], small: Checkpoint = SMALL) -> Matched:
    """Against a curve with steps 0, 100, … and values 1, 2, 4, 8, …"""
    curve = [Checkpoint(100 * i, loss, 2.0**i) for i, loss in enumerate(losses)]
    return match_capability(small, curve)


def test_a_falling_curve_is_interpolated_in_loss() -> None:
    found = match([5.0, 4.0, 3.5, 1.5, 1.0])

    # A quarter of the way from 3.5 to 1.5: from 4 towards 8.
    assert found.status == "matched"
    assert found.value == pytest.approx(5.0)
    assert found.step == pytest.approx(225)
    assert found.width == pytest.approx(2.0)
    assert (found.before, found.after) == (Checkpoint(200, 3.5, 4.0), Checkpoint(300, 1.5, 8.0))
    assert found.difference == pytest.approx(4.8)
    assert (found.num_crossings, found.monotone, found.note) == (1, True, "")


def test_a_checkpoint_at_the_loss_is_taken_as_it_is() -> None:
    for losses in ([4.0, 3.0, 2.0], [4.0, 3.0], [4.0, 3.0, 2.0, 1.0]):
        found = match(losses)
        assert (found.value, found.step, found.width) == (2.0, 100, 0.0)
        assert found.before == found.after == Checkpoint(100, 3.0, 2.0)
        assert (found.num_crossings, found.monotone) == (1, True)


def test_the_first_checkpoint_may_be_the_one() -> None:
    found = match([3.0, 2.0])

    assert (found.status, found.value, found.width) == ("matched", 1.0, 0.0)
    assert match([3.0]).value == 1.0


def test_a_flat_stretch_at_the_loss_takes_its_first_checkpoint_and_says_so() -> None:
    found = match([4.0, 3.0, 3.0, 2.0])

    assert (found.value, found.num_crossings, found.monotone) == (2.0, 1, False)
    assert "does not fall" in found.note


def test_a_curve_that_comes_back_uses_the_first_crossing_and_says_so() -> None:
    found = match([4.0, 2.0, 3.5, 2.5, 1.0])

    assert found.value == pytest.approx(1.5)
    assert (found.num_crossings, found.monotone) == (3, False)
    assert "passes the target 3 times; the first crossing is used" in found.note


def test_a_rise_right_before_the_crossing_is_told() -> None:
    found = match([3.5, 4.0, 2.0, 1.0])

    assert found.value == pytest.approx(3.0)
    assert (found.num_crossings, found.monotone) == (1, False)
    assert "does not fall" in found.note


def test_a_rise_far_from_the_crossing_is_no_matter() -> None:
    found = match([6.0, 7.0, 5.0, 4.0, 2.0, 1.0, 0.5, 0.6])

    assert (found.num_crossings, found.monotone, found.note) == (1, True, "")


def test_a_larger_model_that_never_gets_there() -> None:
    found = match([5.0, 4.0, 3.1])

    assert (found.status, found.value, found.difference) == ("never_reached", None, None)
    assert (found.before, found.after, found.width, found.num_crossings) == (None, None, None, 0)
    assert "best loss is 3.1, above the small one's 3" in found.note


def test_a_larger_model_that_was_never_so_bad() -> None:
    found = match([2.5, 2.0])

    assert (found.status, found.value) == ("starts_below", None)
    assert "first checkpoint (step 0) has loss 2.5" in found.note


def test_results_are_plain_json() -> None:
    stored = json.loads(json.dumps(match([4.0, 2.0]).to_dict(), allow_nan=False))
    assert stored["before"] == {"step": 0, "loss": 4.0, "value": 1.0}
    assert stored["difference"] == pytest.approx(1.3)

    missing = json.loads(json.dumps(match([4.0]).to_dict(), allow_nan=False))
    assert (missing["before"], missing["value"]) == (None, None)
    assert missing["small"] == {"step": 1000, "loss": 3.0, "value": 0.2}


def test_curves_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="no checkpoints"):
        match_capability(SMALL, [])
    swapped = [Checkpoint(100, 4.0, 1.0), Checkpoint(0, 2.0, 1.0)]
    with pytest.raises(ValueError, match=r"\[100, 0\]: wanted checkpoints in the order"):
        match_capability(SMALL, swapped)
    with pytest.raises(NonFiniteError, match="larger model's checkpoint at step 100 has loss nan"):
        match([4.0, math.nan])
    with pytest.raises(NonFiniteError, match="small model's checkpoint at step 5"):
        match([4.0, 2.0], Checkpoint(5, 3.0, math.inf))
