"""Host memory between a model and the store: a stated number of bytes, used over and over.

Whoever fills buffers waits here when writers are slower, so that memory does not grow. Pinned
memory lets a GPU copy into it while it computes.
"""

from __future__ import annotations

import threading
import time

import torch
from torch import Tensor

from bathyscope.errors import StoreError


class Ring:
    """Buffers of any size, `max_bytes` together. Several threads may take and give."""

    def __init__(self, max_bytes: int, *, pinned: bool = False) -> None:
        self.max_bytes = max_bytes
        self._waited_s = 0.0
        self._waiting: list[float] = []
        self._pinned = pinned
        self._free: list[Tensor] = []
        self._made = 0
        self._change = threading.Condition()

    @property
    def waited_s(self) -> float:
        """For how long takers waited for writers, all together, those who still wait included."""
        with self._change:
            now = time.monotonic()
            return self._waited_s + sum(now - since for since in self._waiting)

    @property
    def made_bytes(self) -> int:
        """Bytes that exist now, in use or not."""
        return self._made

    def take(self, num_bytes: int) -> Tensor:
        """A buffer of uint8 [num_bytes] with any content; waits until there is room for it.

        Raises `StoreError` for more than the ring may ever hold.
        """
        if num_bytes > self.max_bytes:
            raise StoreError(
                f"A buffer of {num_bytes} bytes was wanted, but the ring between model and store "
                f"holds {self.max_bytes}. Set a larger hooks.ring_bytes, or a smaller "
                "store.shard_bytes."
            )
        started = time.monotonic()
        with self._change:
            self._waiting.append(started)
            try:
                while (found := self._find(num_bytes)) is None:
                    self._change.wait()
            finally:
                self._waiting.remove(started)
                self._waited_s += time.monotonic() - started
            return found

    def give(self, buffer: Tensor) -> None:
        """Give a buffer back for the next one to take."""
        with self._change:
            self._free.append(buffer)
            self._change.notify_all()

    def _find(self, num_bytes: int) -> Tensor | None:
        for place, buffer in enumerate(self._free):
            if len(buffer) == num_bytes:
                return self._free.pop(place)
        # Of another size: shards of another array.
        while self._free and self._made + num_bytes > self.max_bytes:
            self._made -= len(self._free.pop(0))
        if self._made + num_bytes > self.max_bytes:
            return None
        self._made += num_bytes
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._pinned)
