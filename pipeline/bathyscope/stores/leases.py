"""Leases: the right to do a unit until a time, with a term that only grows.

A lease is a create-only object `leases/<segment>/<unit>/<term>.json`; the highest term counts.
Creating the next number is the only way to take a unit, and only one worker can succeed.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from bathyscope.errors import LeaseLost, MissingArtifact
from bathyscope.stores.objects import Objects
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


class Leases:
    """The leases of one segment. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        objects: Objects,
        segment: str,
        *,
        holder: Holder | None = None,
        seconds: float = DEFAULT_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._folder = f"leases/{segment}"
        self._holder = holder or Holder.this_process()
        self._seconds = seconds
        self._clock = clock

    def claim(self, unit: int) -> Lease | None:
        """Take a unit, or None while somebody alive holds it.

        A lease of a dead process of this host is void at once; others run out by their time.
        """
        current = self.current(unit)
        if current is not None and self._stands(current):
            return None
        if current is None:
            return self._create(unit, term=1, attempt=1)
        return self._create(unit, term=current.term + 1, attempt=current.attempt + 1)

    def check(self, lease: Lease) -> Lease:
        """Confirm that the lease still stands, renewing it when half its time is gone.

        Raises `LeaseLost` when another worker took the unit: whatever this one writes would be
        a stranger's, so it must stop.
        """
        current = self.current(lease.unit)
        # Terms begin again at 1 after a release, so the term alone does not tell whose it is.
        if current is None or (current.term, current.holder) != (lease.term, lease.holder):
            taken = f"term {current.term} by {current.holder.host}" if current else "finished"
            raise LeaseLost(
                f"Unit {lease.unit} in {self._objects.location} was held with term {lease.term}, "
                f"but is now {taken}. This worker stops; nothing is lost."
            )
        if self._clock() < lease.until - self._seconds / 2:
            return lease
        renewed = self._create(lease.unit, term=lease.term + 1, attempt=lease.attempt)
        if renewed is None:
            raise LeaseLost(f"Unit {lease.unit} was taken while its lease was renewed.")
        return renewed

    def release(self, unit: int) -> None:
        """Forget the leases of a unit that has its receipt."""
        self._objects.delete_folder(f"{self._folder}/{unit:08d}")

    def current(self, unit: int) -> Lease | None:
        """The lease with the highest term, or None."""
        keys = [key for key, _ in self._objects.walk(f"{self._folder}/{unit:08d}")]
        if not keys:
            return None
        try:
            record = json.loads(self._objects.get(max(keys)))
        except MissingArtifact:
            # Released between the listing and the read.
            return None
        holder = Holder(**record["holder"])
        return Lease(unit, record["term"], record["attempt"], holder, record["until"])

    def _stands(self, lease: Lease) -> bool:
        if lease.holder == self._holder:
            return False
        return lease.until > self._clock() and not lease.holder.is_dead()

    def _create(self, unit: int, *, term: int, attempt: int) -> Lease | None:
        lease = Lease(unit, term, attempt, self._holder, self._clock() + self._seconds)
        record: Json = {
            "term": term,
            "attempt": attempt,
            "holder": vars(self._holder),
            "until": lease.until,
        }
        key = f"{self._folder}/{unit:08d}/{term:08d}.json"
        return lease if self._objects.create(key, json.dumps(record).encode()) else None
