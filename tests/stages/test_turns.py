"""Turns: anybody when alone, by number when several processes keep one order."""

from __future__ import annotations

import threading
import time

import pytest

from bathyscope.stages.turns import Turns


def test_one_unit_at_a_time_without_numbers() -> None:
    turns, inside, most = Turns(), [0], [0]

    def unit() -> None:
        with turns.take(None):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            inside[0] -= 1

    threads = [threading.Thread(target=unit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert most == [1]
    assert turns.passed == 0


def test_numbers_come_in_their_order_whoever_asks_first() -> None:
    turns, order = Turns(), []

    def unit(number: int) -> None:
        with turns.take(number):
            order.append(number)

    threads = [threading.Thread(target=unit, args=(number,)) for number in (3, 1, 2, 0)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3]
    assert turns.passed == 4


def test_after_an_error_a_numbered_turn_does_not_pass_on() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="out of memory"), turns.take(0):
        raise ValueError("out of memory")
    assert turns.passed == 0
    with pytest.raises(ValueError, match="out of memory"), turns.take(None):
        raise ValueError("out of memory")
    with turns.take(None):
        pass
