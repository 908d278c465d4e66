"""Which unit a worker does next. Knows nothing of processes, clocks or stores.

Whoever drives it says what happened and what time it is. Units are given out in order; those that
failed come back after a pause that doubles. When nothing else is left, the unit that has been
running for longest is given out again, if it runs for much longer than units do: its worker may
hang. Leases see to it that only one of the two can store its result.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bathyscope.errors import JobError

Indices = Sequence[int] | npt.NDArray[np.int64]

_REMEMBERED = 501


@dataclass(frozen=True)
class Limits:
    """When patience ends. Times in seconds."""

    unit_failures: int = 3
    """A unit that fails more often than this stops the run."""
    straggler_factor: float = 4.0
    """A unit that takes so many times the median is given out again."""
    straggler_least_s: float = 30.0
    """But not before this time."""
    hopeless_factor: float = 3.0
    """A worker that takes so many times longer than a straggler is given up."""
    start_s: float = 1800.0
    """So does one that has not begun with its first unit by then: it may load a large model."""
    first_pause_s: float = 0.5
    """Before a unit that failed is given out again; doubles with each failure."""
    longest_pause_s: float = 60.0


@dataclass(frozen=True)
class Task:
    """A unit for a worker."""

    unit: int
    take_over: bool = False
    """Whether another worker has it, and is given up."""


@dataclass(frozen=True)
class _Attempt:
    unit: int
    since: float
    begun: bool
    """Whether a time can be judged: the first unit of a worker waits for its model."""


class Schedule:
    """The state of one stage's units, by their indices. Memory grows with workers, not with units.

    `units` are given out in their order; `limits` say when patience ends.
    """

    def __init__(self, units: Indices, limits: Limits | None = None) -> None:
        self._units = units
        self._limits = limits or Limits()
        self._next = 0
        self._again: list[tuple[float, int]] = []
        self._running: dict[Hashable, _Attempt] = {}
        self._warm: set[Hashable] = set()
        self._attempts: dict[int, int] = {}
        self._failures: dict[int, int] = {}
        self._last: deque[float] = deque()
        self._sorted: list[float] = []
        self.done = 0

    @property
    def finished(self) -> bool:
        """Whether every unit is done."""
        return self.done == len(self._units)

    @property
    def running(self) -> int:
        """Workers that have a unit."""
        return len(self._running)

    def unit_of(self, worker: Hashable) -> int | None:
        """The unit that a worker has."""
        attempt = self._running.get(worker)
        return None if attempt is None else attempt.unit

    def next(self, worker: Hashable, now: float) -> Task | None:
        """The next unit for an idle worker, or None while there is none for it."""
        assert worker not in self._running, worker
        if self._again and self._again[0][0] <= now:
            task = Task(heapq.heappop(self._again)[1])
        elif self._next < len(self._units):
            task = Task(int(self._units[self._next]))
            self._next += 1
        else:
            hanging = self._hanging(now)
            if hanging is None:
                return None
            task = Task(hanging, take_over=True)
        self._running[worker] = _Attempt(task.unit, now, worker in self._warm)
        self._attempts[task.unit] = self._attempts.get(task.unit, 0) + 1
        return task

    def began(self, worker: Hashable, now: float) -> None:
        """A worker has loaded what it needs and works on its unit."""
        attempt = self._running.get(worker)
        if attempt is not None and not attempt.begun:
            self._running[worker] = _Attempt(attempt.unit, now, begun=True)
            self._warm.add(worker)

    def succeeded(self, worker: Hashable, now: float) -> bool:
        """A worker did its unit; False when another one had done it before."""
        attempt = self._running.pop(worker)
        self._warm.add(worker)
        if attempt.unit not in self._attempts:
            return False
        del self._attempts[attempt.unit]
        self._failures.pop(attempt.unit, None)
        self.done += 1
        if attempt.begun:
            self._remember(now - attempt.since)
        return True

    def held(self, worker: Hashable, now: float) -> None:
        """A stranger holds the unit: it is asked for again after a pause, without being blamed."""
        unit = self._give_up(worker)
        if unit is not None:
            heapq.heappush(self._again, (now + self._limits.first_pause_s, unit))

    def superseded(self, worker: Hashable) -> None:
        """A worker found that its unit was taken over. Whoever took it over does it."""
        unit = self._give_up(worker)
        if unit is not None:
            heapq.heappush(self._again, (0.0, unit))

    def failed(self, worker: Hashable, now: float, why: str) -> None:
        """A worker failed at its unit, or died of it. Raises `JobError` when it is too often."""
        attempt = self._running[worker]
        unit = self._give_up(worker)
        if attempt.unit not in self._attempts and unit is None:
            return
        failures = self._failures[attempt.unit] = self._failures.get(attempt.unit, 0) + 1
        if failures > self._limits.unit_failures:
            raise JobError(
                f"Unit {attempt.unit} failed {failures} times, the last time: {why}. Finished "
                "units are kept: mend the cause, then run the same command again."
            )
        if unit is not None:
            pause = min(
                self._limits.first_pause_s * 2 ** (failures - 1), self._limits.longest_pause_s
            )
            heapq.heappush(self._again, (now + pause, unit))

    @property
    def median_s(self) -> float | None:
        """The median time of the last units, or None before three are done."""
        return self._sorted[len(self._sorted) // 2] if len(self._sorted) >= 3 else None

    def _give_up(self, worker: Hashable) -> int | None:
        """Forget what a worker had; its unit, when it is not done and nobody else has it."""
        unit = self._running.pop(worker).unit
        left = self._attempts.get(unit, 0) - 1
        if left > 0:
            self._attempts[unit] = left
            return None
        return unit if self._attempts.pop(unit, None) is not None else None

    def hopeless(self, worker: Hashable, now: float) -> bool:
        """Whether a worker has had its unit for so long that it surely hangs."""
        attempt, too_long = self._running[worker], self._too_long()
        took = now - attempt.since
        if not attempt.begun:
            return took > self._limits.start_s
        return too_long is not None and took > self._limits.hopeless_factor * too_long

    def _hanging(self, now: float) -> int | None:
        """The unit that runs for longest, if that is too long and only one worker has it."""
        too_long = self._too_long()
        # Also of a worker that still loads its model: an idle one need not wait for it.
        alone = [a for a in self._running.values() if self._attempts.get(a.unit) == 1]
        longest = min(alone, key=lambda a: a.since, default=None)
        if too_long is None or longest is None:
            return None
        return longest.unit if now - longest.since > too_long else None

    def _too_long(self) -> float | None:
        """Seconds after which a unit is a straggler, once there is a median."""
        median = self.median_s
        if median is None:
            return None
        return max(self._limits.straggler_factor * median, self._limits.straggler_least_s)

    def _remember(self, seconds: float) -> None:
        self._last.append(seconds)
        insort(self._sorted, seconds)
        if len(self._last) > _REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._last.popleft())]
