"""The event log of a run: what a command did and when, as lines of JSON beside the artifacts.

    events/<begun>-<host>-<process>.<part>.jsonl

A command writes files of its own, each whole again while it grows and a new one after 256 kB:
object stores have no append, and no two processes share a file. `bathyscope status` reads them.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from bathyscope.errors import StoreError
from bathyscope.jobs.sink import Sink
from bathyscope.runs.work import Begun
from bathyscope.secrets import without_secrets
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

EVENTS = "events"
PROGRESS_EVERY_S = 10.0
_LARGEST_BYTES = 256 * 1024
_KEPT_FILES = 64


class EventLog:
    """Lines of one command. A store that is away for a moment loses none of them."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._objects = Objects(url).at(EVENTS)
        self._clock = clock
        begun = _at(clock()).strftime("%Y%m%dT%H%M%S")
        self._name = f"{begun}-{socket.gethostname()}-{os.getpid()}"
        self._part, self._lines, self._bytes = 0, list[bytes](), 0

    def add(self, event: str, **values: Any) -> None:
        """One line: what happened, with what there is to say of it."""
        at = _at(self._clock()).isoformat(timespec="milliseconds")
        record = {"at": at, "event": event, **values}
        line = without_secrets(json.dumps(record, default=str)).encode() + b"\n"
        if self._bytes + len(line) > _LARGEST_BYTES and self._lines:
            self._part, self._lines, self._bytes = self._part + 1, [], 0
        if not self._lines:
            self._make_room()
        self._lines.append(line)
        self._bytes += len(line)
        # What cannot be written now comes with the next line: a log must not stop the work.
        with suppress(StoreError):
            self._objects.put(f"{self._name}.{self._part:04d}.jsonl", self._lines)

    def _make_room(self) -> None:
        """Remove the oldest files of a run that has many."""
        with suppress(StoreError):
            old = self._objects.files()[:-_KEPT_FILES]
            self._objects.delete_many(old)


def read_events(objects: Objects, *, last_files: int = 8) -> Iterator[Json]:
    """The events of a run in the order of their files; `objects` is the run's folder.

    A line that was cut short is passed over.
    """
    folder = objects.at(EVENTS)
    for name in folder.files()[-last_files:]:
        for line in folder.get(name).splitlines():
            with suppress(ValueError):
                record: Json = json.loads(line)
                yield record


class Recorded:
    """A sink that writes down what another one shows."""

    def __init__(
        self, sink: Sink, log: EventLog, step: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sink, self._log, self._step, self._clock = sink, log, step, clock
        self._told = self._began = clock()
        self._under_way = False

    def begin(self, begun: Begun) -> None:
        """A stage starts, resumes, or has nothing to do."""
        self._began = self._told = self._clock()
        self._under_way = not begun.complete
        if self._under_way:
            self._log.add(
                "begin",
                step=self._step,
                artifact=begun.objects.location,
                units=begun.work.plan.num_units,
                left=len(begun.remaining),
            )
        self._sink.begin(begun)

    def progress(self, done: float, text: str) -> None:
        """Units done, at most every ten seconds."""
        now = self._clock()
        if now - self._told >= PROGRESS_EVERY_S:
            self._told = now
            self._log.add("progress", step=self._step, done=round(done, 3), text=text)
        self._sink.progress(done, text)

    def note(self, text: str) -> None:
        """A retry, a fallback: what a person should read once."""
        self._log.add("note", step=self._step, text=text)
        self._sink.note(text)

    def failed(self, error: Exception) -> None:
        """The stage ended with an error. One that was refused before it began leaves no trace."""
        if self._under_way:
            told = f"{type(error).__name__}: {error}"
            self._log.add("failed", step=self._step, error=told)

    def end(self, begun: Begun, facts: Json) -> None:
        """The stage is complete."""
        self._under_way = False
        seconds = round(self._clock() - self._began, 3)
        self._log.add("end", step=self._step, artifact=begun.objects.location, seconds=seconds)
        self._sink.end(begun, facts)


def _at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
