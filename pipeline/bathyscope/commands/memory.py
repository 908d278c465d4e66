"""Peak memory of the process tree, Ray included: a thread that looks several times a second."""

from __future__ import annotations

import threading

import psutil

_INTERVAL_S = 0.5


class PeakMemory:
    """Samples the resident memory of this process and all its descendants.

    Resident sets are added up, so memory that processes share counts once for each of them: the
    figure is an upper bound.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._total = 0
        self._since_mark = 0
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def total_bytes(self) -> int:
        """The highest sum seen."""
        self._sample()
        return self._total

    def mark(self) -> int:
        """The highest sum since the last mark, and start again."""
        self._sample()
        with self._lock:
            peak, self._since_mark = self._since_mark, 0
        return peak

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._sample()

    def _sample(self) -> None:
        resident = tree_bytes()
        with self._lock:
            self._total = max(self._total, resident)
            self._since_mark = max(self._since_mark, resident)


def tree_bytes() -> int:
    """Resident memory of this process and its descendants, in bytes."""
    this = psutil.Process()
    total = 0
    for process in [this, *this.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
