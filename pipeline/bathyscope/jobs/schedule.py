"""Which unit a worker does next. Knows nothing of processes, clocks or stores.

Whoever drives it says what happened and what time it is. Units are given out in order; those that
failed come back after a pause that doubles. When nothing else is left, the unit that has been
running for longest is given out again, if it runs for much longer than units do: its worker may
hang. Leases see to it that only one of the two can store its result. A share of the units can be
audited: done a second time by another worker, to compare.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bathyscope.errors import JobError

Indices = Sequence[int] | npt.NDArray[np.int64]

_REMEMBERED = 501
_TOGETHER = 16


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
    first_pause_s: float = 0.5
    """Before a unit that failed is given out again; doubles with each failure."""
    longest_pause_s: float = 60.0
    worthwhile_s: float = 0.5
    """Units are given out several at once while they take less than this together."""


@dataclass(frozen=True, order=True)
class Task:
    """A unit for a worker."""

    unit: int
    take_over: bool = False
    """Whether another worker has it, and is given up or gone."""
    audit: bool = False
    """Whether it is done already, and done again to compare."""


@dataclass(frozen=True)
class _Attempt:
    task: Task
    since: float


class Schedule:
    """The state of one stage's units, by their indices. Memory grows with workers, not with units.

    `units` are given out in their order; `limits` say when patience ends; `audited` says of a unit
    whether it is to be done twice. `owner` says whose a worker is where one process appears as
    several: what one of them did, another one of the same owner does not audit.
    """

    def __init__(
        self,
        units: Indices,
        limits: Limits | None = None,
        audited: Callable[[int], bool] | None = None,
        owner: Callable[[Any], Hashable] = lambda worker: worker,
    ) -> None:
        self._units = units
        self._limits = limits or Limits()
        self._audited = audited
        self._owner = owner
        self._next = 0
        self._again: list[tuple[float, Task]] = []
        self._audits: deque[tuple[int, Hashable]] = deque()
        self._running: dict[Hashable, _Attempt] = {}
        self._known: set[Hashable] = set()
        self._attempts: dict[int, int] = {}
        self._failures: dict[int, int] = {}
        self._last: deque[float] = deque()
        self._sorted: list[float] = []
        self.done = 0
        self.audits_done = 0

    @property
    def finished(self) -> bool:
        """Whether every unit is done, and audited if it is to be."""
        if self.done < len(self._units) or self._audits:
            return False
        # What still runs was done by others, but for audits.
        return not any(a.task.audit for a in self._running.values()) and not any(
            task.audit for _, task in self._again
        )

    @property
    def unstarted(self) -> int:
        """Units that nobody was given yet."""
        return len(self._units) - self._next

    @property
    def running(self) -> int:
        """Workers that have a unit."""
        return len(self._running)

    @property
    def median_s(self) -> float | None:
        """The median time of the last units, or None before three are done."""
        return self._sorted[len(self._sorted) // 2] if len(self._sorted) >= 3 else None

    def together(self, workers: int) -> int:
        """How many new units one of so many workers is given at once: 1, unless they are short.

        Never more than 16. 1 until three units are done, near the end, and while any that failed
        wait for their turn: these are done alone, so that none is blamed for another.
        """
        median = self.median_s
        if median is None or self._again:
            return 1
        worthwhile = int(self._limits.worthwhile_s / max(median, 1e-6))
        return max(1, min(_TOGETHER, worthwhile, self.unstarted // max(workers, 1)))

    def unit_of(self, worker: Hashable) -> int | None:
        """The unit that a worker has."""
        attempt = self._running.get(worker)
        return None if attempt is None else attempt.task.unit

    def next(self, worker: Hashable, now: float) -> Task | None:
        """The next unit for an idle worker, or None while there is none for it."""
        assert worker not in self._running, worker
        self._known.add(self._owner(worker))
        task = self._choose(worker, now)
        if task is None:
            return None
        self._running[worker] = _Attempt(task, now)
        if not task.audit:
            self._attempts[task.unit] = self._attempts.get(task.unit, 0) + 1
        return task

    def succeeded(self, worker: Hashable, now: float, seconds: float | None = None) -> bool:
        """A worker did its unit; False when another one had done it before, and for an audit.

        `seconds` is what the unit took where that is less than since it was given out.
        """
        attempt = self._running.pop(worker)
        unit = attempt.task.unit
        if attempt.task.audit:
            self._failures.pop(unit, None)
            self.audits_done += 1
            return False
        if unit not in self._attempts:
            return False
        del self._attempts[unit]
        self._failures.pop(unit, None)
        self.done += 1
        self._remember(now - attempt.since if seconds is None else seconds)
        if self._audited is not None and self._audited(unit):
            self._audits.append((unit, self._owner(worker)))
        return True

    def held(self, worker: Hashable, now: float) -> None:
        """A stranger holds the unit: it is asked for again after a pause, without being blamed."""
        task = self._give_up(worker)
        if task is not None:
            heapq.heappush(self._again, (now + self._limits.first_pause_s, task))

    def superseded(self, worker: Hashable) -> None:
        """A worker did not do its unit, because another one took it over or it came to others.

        If nobody else does it, it is given out again at once.
        """
        task = self._give_up(worker)
        if task is not None:
            heapq.heappush(self._again, (0.0, task))

    def taken_away(self, worker: Hashable) -> None:
        """A worker is let go before its unit is done, through no fault of either."""
        task = self._give_up(worker)
        self.forget(worker)
        if task is not None:
            heapq.heappush(self._again, (0.0, _after_loss(task)))

    def failed(self, worker: Hashable, now: float, why: str, *, gone: bool = False) -> None:
        """A worker failed at its unit, or is gone with it. Raises `JobError` when it is too often.

        Whoever gets the unit of a worker that is gone need not wait for the end of its lease.
        """
        unit = self._running[worker].task.unit
        task = self._give_up(worker)
        if gone:
            self.forget(worker)
        if task is None and unit not in self._attempts:
            return
        failures = self._failures[unit] = self._failures.get(unit, 0) + 1
        if failures > self._limits.unit_failures:
            raise JobError(
                f"Unit {unit} failed {failures} times, the last time: {why}. Finished "
                "units are kept: mend the cause, then run the same command again."
            )
        if task is not None:
            pause = min(
                self._limits.first_pause_s * 2 ** (failures - 1), self._limits.longest_pause_s
            )
            heapq.heappush(self._again, (now + pause, _after_loss(task) if gone else task))

    def forget(self, worker: Hashable) -> None:
        """A worker is gone; it has no unit."""
        assert worker not in self._running, worker
        self._known.discard(self._owner(worker))

    def hopeless(self, worker: Hashable, now: float) -> bool:
        """Whether a worker has had its unit for so long that it surely hangs."""
        too_long = self._too_long()
        took = now - self._running[worker].since
        return too_long is not None and took > self._limits.hopeless_factor * too_long

    def left_s(self, worker: Hashable, now: float) -> float | None:
        """Seconds that a worker probably needs for the rest of its unit; None without a median."""
        median = self.median_s
        if median is None:
            return None
        return max(median - (now - self._running[worker].since), 0.0)

    def _choose(self, worker: Hashable, now: float) -> Task | None:
        if self._again and self._again[0][0] <= now:
            return heapq.heappop(self._again)[1]
        audit = self._audit_for(worker)
        if audit is not None:
            return audit
        if self._next < len(self._units):
            self._next += 1
            return Task(int(self._units[self._next - 1]))
        hanging = self._hanging(now)
        return None if hanging is None else Task(hanging, take_over=True)

    def _audit_for(self, worker: Hashable) -> Task | None:
        """An audit of what another worker did; of its own units where there is no other."""
        owner = self._owner(worker)
        alone = self._known == {owner}
        for place, (unit, who) in enumerate(self._audits):
            if who != owner or alone:
                del self._audits[place]
                return Task(unit, audit=True)
        return None

    def _give_up(self, worker: Hashable) -> Task | None:
        """Forget what a worker had; its task, when it is not done and nobody else has it."""
        task = self._running.pop(worker).task
        if task.audit:
            return task
        left = self._attempts.get(task.unit, 0) - 1
        if left > 0:
            self._attempts[task.unit] = left
            return None
        return Task(task.unit) if self._attempts.pop(task.unit, None) is not None else None

    def _hanging(self, now: float) -> int | None:
        """The unit that runs for longest, if that is too long and only one worker has it."""
        too_long = self._too_long()
        if too_long is None:
            return None
        alone = [
            a
            for a in self._running.values()
            if not a.task.audit and self._attempts.get(a.task.unit) == 1
        ]
        longest = min(alone, key=lambda a: a.since, default=None)
        if longest is None or now - longest.since <= too_long:
            return None
        return longest.task.unit

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


def _after_loss(task: Task) -> Task:
    return task if task.audit else Task(task.unit, take_over=True)
