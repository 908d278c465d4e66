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
    for _ in range(units - 1):
        schedule.next("fast", 0)
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


def test_the_unit_of_a_worker_that_is_gone_is_taken_over() -> None:
    schedule = Schedule([4, 5], LIMITS)
    schedule.next("a", 0)
    schedule.failed("a", 10, "died", gone=True)
    schedule.next("b", 10)

    assert schedule.next("c", 11) == Task(4, take_over=True), "its lease need not run out"


def test_a_unit_that_is_taken_away_comes_back_at_once_without_blame() -> None:
    schedule = Schedule([4], Limits(unit_failures=0))
    for turn in range(5):
        assert schedule.next(turn, 0) in (Task(4), Task(4, take_over=True))
        schedule.taken_away(turn)

    assert schedule.next("a", 0) == Task(4, take_over=True)


def test_the_time_that_a_unit_still_takes_is_known_from_the_others() -> None:
    schedule = finished_quickly(4)
    assert schedule.left_s("slow", 5) == 15
    assert schedule.left_s("slow", 50) == 0
    fresh = Schedule([1], LIMITS)
    fresh.next("a", 0)
    assert fresh.left_s("a", 5) is None


def audited_by(*workers: str) -> Schedule:
    """Unit 1 of three is audited; the first worker has done all."""
    schedule = Schedule(range(3), LIMITS, audited=lambda unit: unit == 1)
    for worker in workers[1:]:
        schedule.next(worker, 0)
        schedule.held(worker, 0)
    for _ in range(3):
        assert schedule.next(workers[0], 1) is not None
        assert schedule.succeeded(workers[0], 2)
    return schedule


def test_an_audited_unit_is_done_again_by_another_worker() -> None:
    schedule = audited_by("a", "b")

    assert schedule.done == 3
    assert not schedule.finished
    assert schedule.next("a", 3) is None, "it did the unit itself"
    assert schedule.next("b", 3) == Task(1, audit=True)
    assert not schedule.finished
    assert not schedule.succeeded("b", 4), "it was done before"
    assert schedule.finished
    assert (schedule.done, schedule.audits_done) == (3, 1)


def test_the_only_worker_audits_its_own_units() -> None:
    schedule = Schedule(range(2), LIMITS, audited=lambda unit: unit == 0)
    schedule.next("a", 0)
    schedule.succeeded("a", 1)

    assert schedule.next("a", 1) == Task(0, audit=True)


def test_when_the_others_are_gone_a_worker_audits_its_own_units() -> None:
    schedule = audited_by("a", "b")
    schedule.forget("b")

    assert schedule.next("a", 3) == Task(1, audit=True)


def test_an_audit_that_fails_is_done_again_and_counted() -> None:
    schedule = audited_by("a", "b")
    schedule.next("b", 3)
    schedule.failed("b", 3, "died", gone=True)
    assert not schedule.finished
    assert schedule.next("c", 4) == Task(1, audit=True)
    schedule.taken_away("c")
    assert schedule.next("d", 4) == Task(1, audit=True)
    schedule.failed("d", 5, "died")
    schedule.next("e", 10)

    with pytest.raises(JobError, match="Unit 1 failed 3 times"):
        schedule.failed("e", 11, "died")


def test_audits_that_take_long_are_not_given_out_twice() -> None:
    schedule = audited_by("a", "b")
    schedule.next("b", 3)

    assert schedule.next("a", 1000) is None
    assert schedule.hopeless("b", 1000)


def test_a_worker_far_beyond_stragglers_is_hopeless() -> None:
    schedule = finished_quickly(4)

    assert not schedule.hopeless("slow", 3 * 80)
    assert schedule.hopeless("slow", 3 * 80 + 1)
    schedule.failed("slow", 241, "hung")
    assert schedule.next("new", 242) == Task(0)
    alone = Schedule([1], LIMITS)
    alone.next("a", 0)
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
    for _ in range(3):
        schedule.next("fast", 0)
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
    schedule = Schedule(
        range(count),
        Limits(unit_failures=10**9, straggler_least_s=1),
        audited=lambda unit: unit % 3 == 0,
    )
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
        event = rng.integers(6)
        if event == 0:
            schedule.failed(worker, now, "x", gone=bool(rng.integers(2)))
        elif event == 5:
            schedule.taken_away(worker)
        elif event == 1:
            schedule.held(worker, now)
        elif event == 2:
            schedule.superseded(worker)
        elif schedule.succeeded(worker, now):
            counted.append(unit)

    assert schedule.finished
    assert sorted(counted) == list(range(count))
    assert schedule.audits_done == len(range(0, count, 3))


def test_short_units_are_given_out_several_at_once_until_the_end_is_near() -> None:
    schedule = Schedule(range(100), Limits(worthwhile_s=0.5))
    assert schedule.together(2) == 1, "nobody knows yet how long they take"
    for _ in range(3):
        schedule.next("a", 0)
        schedule.succeeded("a", 50, seconds=0.1)
    assert schedule.median_s == 0.1
    assert schedule.together(2) == 5
    assert schedule.together(40) == 2, "97 are left for forty workers"
    assert schedule.together(98) == 1


def test_no_more_than_sixteen_are_given_out_at_once_and_long_ones_alone() -> None:
    for seconds, at_once in ((1e-4, 16), (0.0, 16), (0.4, 1), (60.0, 1)):
        schedule = Schedule(range(1000))
        for _ in range(3):
            schedule.next("a", 0)
            schedule.succeeded("a", 100, seconds)
        assert schedule.together(4) == at_once


def test_units_are_done_alone_while_any_that_failed_wait() -> None:
    schedule = Schedule(range(1000), LIMITS)
    for _ in range(3):
        schedule.next("a", 0)
        schedule.succeeded("a", 0.001)
    schedule.next("a", 0)
    schedule.failed("a", 0, "disk full")
    assert schedule.together(2) == 1
    assert schedule.next("a", 10) == Task(3)
    assert schedule.together(2) == 16
