"""Whose turn it is to compute, among the units that a worker has under way at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One unit computes at a time.

    A process that is alone lets anybody in who comes. Processes that hold parts of one model must
    all compute the units in one order, so there each unit has a number and waits for the one
    before it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._next = 0

    @property
    def passed(self) -> int:
        """Numbered turns that are over, in order: all numbers below this."""
        with self._changed:
            return self._next

    @contextmanager
    def take(self, number: int | None) -> Iterator[None]:
        """Wait for the turn, and keep it for the time of a `with` block.

        After an error in the block a numbered turn does not pass on: neighbours wait for batches
        that never come, so whoever called must end the processes.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and number in (None, self._next))
            self._busy = True
        failed = True
        try:
            yield
            failed = False
        finally:
            with self._changed:
                self._busy = False
                if number is not None and not failed:
                    self._next += 1
                self._changed.notify_all()
