"""Leases: the right to do a unit until a time, with a term that only grows.

The lease of a unit is a pointer `leases/<segment>/<unit>`. To swap it is the only way to take a
unit or to keep it, and only one worker can succeed.

Clocks of hosts differ and jump. A lease ends when the reader's clock has passed its time, or when
the reader has watched it unchanged for its whole length by a clock that cannot jump. Either may be
wrong: a worker that lost its unit is told so before its next shard, and can do no harm.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from bathyscope.errors import LeaseLost
from bathyscope.stores.objects import Objects
from bathyscope.stores.pointers import Held, Pointer
from bathyscope.values import Json

DEFAULT_SECONDS = 600.0


@dataclass(frozen=True)
class Holder:
    """A process that may hold leases. The start time tells it from a later one with its pid."""

    host: str
    pid: int
    started: float

    @classmethod
    def this_process(cls) -> Holder:
        """The holder that stands for the calling process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def is_dead(self) -> bool:
        """Whether it surely ended: only a process of this host can be judged."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            # A killed process stays a zombie until its parent looks, and that may be never.
            ended = process.status() == psutil.STATUS_ZOMBIE
            return ended or abs(process.create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True


@dataclass(frozen=True)
class Lease:
    """The right to do one unit."""

    unit: int
    term: int
    """Grows with every claim and every renewal."""
    attempt: int
    """Grows with every claim only: 1 when the unit was started once."""
    holder: Holder
    until: float
    """Seconds since the epoch, by the clock of the one who took it."""
    seconds: float = DEFAULT_SECONDS
    """Its whole length."""


class Watch:
    """When each lease was first seen as it is now, by a clock that does not jump.

    One for a process: whoever waits for a unit asks again and again, each time anew.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[Lease, float]] = {}

    def seconds(self, key: str, lease: Lease) -> float:
        """For how long the lease of that key has been seen unchanged."""
        now = self._clock()
        before = self._seen.get(key)
        if before is None or before[0] != lease:
            self._seen[key] = (lease, now)
            return 0.0
        return now - before[1]

    def forget(self, key: str) -> None:
        """The lease of that key is over."""
        self._seen.pop(key, None)


_WATCH = Watch()


class Leases:
    """The leases of one segment. `clock` gives seconds since the epoch and may jump."""

    def __init__(
        self,
        objects: Objects,
        segment: str,
        *,
        holder: Holder | None = None,
        seconds: float = DEFAULT_SECONDS,
        clock: Callable[[], float] = time.time,
        watch: Watch = _WATCH,
    ) -> None:
        self._objects = objects
        self._folder = f"leases/{segment}"
        self._holder = holder or Holder.this_process()
        self._seconds = seconds
        self._clock = clock
        self._watch = watch

    def claim(self, unit: int) -> Lease | None:
        """Take a unit, or None while somebody alive holds it.

        A lease of a dead process of this host is void at once; others run out by their time.
        """
        held = self._pointer(unit).read()
        if held is None:
            return self._swap(unit, None, term=1, attempt=1)
        if self._stands(_lease(unit, held.value)):
            return None
        return self._follow(unit, held)

    def take_over(self, unit: int) -> Lease | None:
        """Take a unit whoever holds it, or None when somebody else was faster.

        For a holder that is given up: at its next look it is told that it lost the unit.
        """
        held = self._pointer(unit).read()
        if held is None:
            return self._swap(unit, None, term=1, attempt=1)
        return self._follow(unit, held)

    def check(self, lease: Lease) -> Lease:
        """Confirm that the lease still stands, renewing it when half its time is gone.

        Raises `LeaseLost` when another worker took the unit: whatever this one writes would be
        a stranger's, so it must stop.
        """
        held = self._pointer(lease.unit).read()
        current = _lease(lease.unit, held.value) if held is not None else None
        # Terms begin again at 1 after a release, so the term alone does not tell whose it is.
        if current is None or (current.term, current.holder) != (lease.term, lease.holder):
            taken = f"term {current.term} by {current.holder.host}" if current else "finished"
            raise LeaseLost(
                f"Unit {lease.unit} in {self._objects.location} was held with term {lease.term}, "
                f"but is now {taken}. This worker stops; nothing is lost."
            )
        left = lease.until - self._clock()
        # A clock that went back would never come to half time, while others watch the lease end.
        if self._seconds / 2 < left <= self._seconds:
            return lease
        renewed = self._swap(lease.unit, held, term=lease.term + 1, attempt=lease.attempt)
        if renewed is None:
            raise LeaseLost(f"Unit {lease.unit} was taken while its lease was renewed.")
        return renewed

    def release(self, unit: int) -> None:
        """Forget the leases of a unit that has its receipt."""
        self._pointer(unit).delete()
        self._watch.forget(self._key(unit))

    def give_back(self, lease: Lease) -> None:
        """End a lease before its time, so that anybody may take the unit at once.

        Nothing happens when it is no longer held. Terms go on growing, unlike after `release`.
        """
        held = self._pointer(lease.unit).read()
        if held is None:
            return
        current = _lease(lease.unit, held.value)
        if (current.term, current.holder) == (lease.term, lease.holder):
            self._swap(lease.unit, held, term=lease.term + 1, attempt=lease.attempt, seconds=0.0)

    def current(self, unit: int) -> Lease | None:
        """The lease that counts, or None."""
        held = self._pointer(unit).read()
        return None if held is None else _lease(unit, held.value)

    def _stands(self, lease: Lease) -> bool:
        if lease.holder == self._holder or lease.holder.is_dead():
            return False
        watched = self._watch.seconds(self._key(lease.unit), lease)
        return lease.until > self._clock() and watched < lease.seconds

    def _follow(self, unit: int, held: Held) -> Lease | None:
        """A new claim after the lease that was read."""
        current = _lease(unit, held.value)
        return self._swap(unit, held, term=current.term + 1, attempt=current.attempt + 1)

    def _swap(
        self,
        unit: int,
        held: Held | None,
        *,
        term: int,
        attempt: int,
        seconds: float | None = None,
    ) -> Lease | None:
        length = self._seconds if seconds is None else seconds
        lease = Lease(unit, term, attempt, self._holder, self._clock() + length, length)
        record: Json = {**vars(lease), "holder": vars(self._holder)}
        return lease if self._pointer(unit).swap(held, record) is not None else None

    def _pointer(self, unit: int) -> Pointer:
        return Pointer(self._objects, f"{self._folder}/{unit:08d}")

    def _key(self, unit: int) -> str:
        return f"{self._objects.location}/{self._folder}/{unit:08d}"


def _lease(unit: int, record: Json) -> Lease:
    return Lease(**{**record, "unit": unit, "holder": Holder(**record["holder"])})
