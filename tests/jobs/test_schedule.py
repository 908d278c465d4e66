"""The schedule alone: order, pauses, stragglers, and that no unit is lost whatever happens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bathyscope.errors import JobError
from bathyscope.jobs.schedule import Limits, Schedule, Task

LIMITS = Limits(unit_failures=2, straggler_factor=4, straggler_least_s=30, first_pause_s=1)


def test_units_are_given_out_in_order_until_none_is_left() -> None:
    schedule = Schedule([4, 7], LIMITS)

    assert [schedule.next(w, 0) for w in "abc"] == [Task(4), Task(7), None]
    assert schedule.unit_of("b") == 7
    assert schedule.succeeded("b", 1)
    assert not schedule.finished
    assert schedule.succeeded("a", 1)
    assert schedule.finished
    assert schedule.running == 0


def test_no_units_are_finished_at_once() -> None:
    assert Schedule([]).finished


def test_a_unit_that_failed_comes_back_after_a_pause_that_doubles() -> None:
    schedule = Schedule([4], LIMITS)
    assert schedule.next("a", 0) == Task(4)
    schedule.failed("a", 10, "disk full")
    assert schedule.next("a", 10.9) is None
    assert schedule.next("b", 11) == Task(4)
    schedule.failed("b", 20, "disk full")
    assert schedule.next("a", 21.9) is None
    assert schedule.next("a", 22) == Task(4)

    with pytest.raises(JobError, match="Unit 4 failed 3 times, the last time: disk full"):
        schedule.failed("a", 30, "disk full")


def test_pauses_have_an_end() -> None:
    schedule = Schedule([4], Limits(unit_failures=50, first_pause_s=1, longest_pause_s=8))
    for _ in range(20):
        schedule.next("a", 1e6)
        schedule.failed("a", 0, "x")

    assert schedule.next("a", 8) == Task(4)


def test_a_unit_that_a_stranger_holds_is_asked_for_again_without_blame() -> None:
    schedule = Schedule([4], LIMITS)
    for turn in range(10):
        assert schedule.next("a", 2.0 * turn) == Task(4)
        schedule.held("a", 2.0 * turn)

    assert schedule.next("a", 100) == Task(4)


def finished_quickly(units: int) -> Schedule:
    """A schedule whose first units took 20 seconds each; the last one is running since 0."""
    schedule = Schedule(range(units), LIMITS)
    schedule.next("slow", 0)
    schedule.began("slow", 0)
    for _ in range(units - 1):
        schedule.next("fast", 0)
        schedule.began("fast", 0)
        schedule.succeeded("fast", 20)
    return schedule


def test_a_straggler_is_given_out_again_once() -> None:
    schedule = finished_quickly(4)

    assert schedule.median_s == 20
    assert schedule.next("fast", 80) is None
    assert schedule.next("fast", 81) == Task(0, take_over=True)
    assert schedule.next("third", 1000) is None, "two are enough"
    assert schedule.succeeded("fast", 1001)
    assert schedule.finished
    assert not schedule.succeeded("slow", 1002), "it was done before"
    assert schedule.done == 4


def loading() -> Schedule:
    """One worker has loaded its model since 0, the other has done units of 20 seconds."""
    schedule = Schedule(range(5), LIMITS)
    schedule.next("loads", 0)
    schedule.next("warm", 0)
    schedule.succeeded("warm", 500)
    assert schedule.median_s is None, "its first unit says nothing of the others"
    for turn in range(3):
        schedule.next("warm", 500 + 20 * turn)
        schedule.succeeded("warm", 520 + 20 * turn)
    assert schedule.median_s == 20
    return schedule


def test_a_worker_that_loads_its_model_is_not_given_up_for_being_slow() -> None:
    schedule = loading()

    assert not schedule.hopeless("loads", 1800)
    assert schedule.hopeless("loads", 1801)
    schedule.began("loads", 1000)
    assert not schedule.hopeless("loads", 1240)
    assert schedule.hopeless("loads", 1241)


def test_an_idle_worker_does_the_unit_of_one_that_still_loads() -> None:
    schedule = loading()

    assert schedule.next("warm", 561) == Task(0, take_over=True)
    assert schedule.succeeded("warm", 580)
    assert schedule.finished
    assert not schedule.succeeded("loads", 1500), "it found the unit done"


def test_a_worker_far_beyond_stragglers_is_hopeless() -> None:
    schedule = finished_quickly(4)

    assert not schedule.hopeless("slow", 3 * 80)
    assert schedule.hopeless("slow", 3 * 80 + 1)
    schedule.failed("slow", 241, "hung")
    assert schedule.next("new", 242) == Task(0)
    alone = Schedule([1], LIMITS)
    alone.next("a", 0)
    alone.began("a", 0)
    assert not alone.hopeless("a", 1e9), "nothing to compare with"


def test_a_straggler_may_still_win() -> None:
    schedule = finished_quickly(4)
    schedule.next("fast", 81)

    assert schedule.succeeded("slow", 90)
    assert schedule.finished
    schedule.superseded("fast")
    assert schedule.next("fast", 91) is None


def test_a_worker_that_was_taken_over_leaves_the_unit_to_the_other() -> None:
    schedule = finished_quickly(4)
    schedule.next("fast", 81)
    schedule.superseded("slow")

    assert schedule.next("slow", 82) is None
    schedule.failed("fast", 90, "died")
    assert schedule.next("slow", 91) == Task(0), "now nobody has it"


def test_short_units_have_no_stragglers_before_the_least_time() -> None:
    schedule = Schedule(range(4), LIMITS)
    schedule.next("slow", 0)
    schedule.began("slow", 0)
    for _ in range(3):
        schedule.next("fast", 0)
        schedule.began("fast", 0)
        schedule.succeeded("fast", 0.1)

    assert schedule.next("fast", 29) is None
    assert schedule.next("fast", 31) == Task(0, take_over=True)


def test_without_a_median_nobody_is_a_straggler() -> None:
    schedule = Schedule(range(3), LIMITS)
    schedule.next("slow", 0)
    for _ in range(2):
        schedule.next("fast", 0)
        schedule.succeeded("fast", 1)

    assert schedule.next("fast", 1e9) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 12), st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_unit_is_done_once_whatever_happens(count: int, workers: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    schedule = Schedule(range(count), Limits(unit_failures=10**9, straggler_least_s=1))
    counted: list[int] = []
    now = 0.0
    for _ in range(10_000):
        if schedule.finished:
            break
        now += float(rng.exponential(1.0))
        worker = int(rng.integers(workers))
        unit = schedule.unit_of(worker)
        if unit is None:
            schedule.next(worker, now)
            continue
        event = rng.integers(5)
        if event == 0:
            schedule.failed(worker, now, "x")
        elif event == 1:
            schedule.held(worker, now)
        elif event == 2:
            schedule.superseded(worker)
        elif schedule.succeeded(worker, now):
            counted.append(unit)

    assert schedule.finished
    assert sorted(counted) == list(range(count))
