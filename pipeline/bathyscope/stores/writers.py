"""The threads that write shards, and how many of these wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

import torch


class Writers(ThreadPoolExecutor):
    """Threads that sum, hash and write full shards. Each computes with one thread of its own."""

    def __init__(self, count: int) -> None:
        super().__init__(count, "writer", initializer=torch.set_num_threads, initargs=(1,))
        self._counting = Lock()
        self.waiting = 0
        """Shards that were given and are not written yet."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a thread do it."""
        future = super().submit(fn, *args, **kwargs)
        with self._counting:
            self.waiting += 1
        # Called at once where it has ended already.
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _: Future[Any]) -> None:
        with self._counting:
            self.waiting -= 1
