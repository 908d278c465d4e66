"""Requests to stop: a person, a scheduler or a cloud that is about to take the machine away."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from bathyscope.errors import StopRequested
from bathyscope.runs.work import Begun

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM comes from Kubernetes and systemd, SIGUSR1 from Slurm (`--signal=B:USR1@120`)."""


class StopRequest:
    """While the `with` block lasts, a signal only sets a mark, and the work ends in good order."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    @property
    def seconds(self) -> float:
        """Seconds since the first signal."""
        return time.monotonic() - self._at if self.asked else 0.0

    def __enter__(self) -> StopRequest:
        # Python lets only the main thread handle signals; elsewhere they keep their meaning.
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._at = signal.Signals(number), time.monotonic()


def stopped(stop: StopRequest, begun: Begun, done: int) -> StopRequested:
    """The error that ends a stage after a signal, with what is done of it."""
    work = begun.work
    return StopRequested(
        f"Stopped by {stop.signal.name if stop.signal else 'request'}: {done} of "
        f"{work.plan.num_units} {work.unit_name} of {work.stage} are done and kept. The same "
        "command goes on."
    )
