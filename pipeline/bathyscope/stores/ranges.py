"""An object as a file: reads ask for the ranges that are wanted."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any


class ObjectFile(io.RawIOBase):
    """A read-only file over `read(start, buffer)`, which fills the buffer or raises."""

    def __init__(self, size: int, read: Callable[[int, memoryview], None]) -> None:
        super().__init__()
        self._size = size
        self._read = read
        self._place = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place counted from the start, from here, or from the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(base + offset, 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the object goes; the number of bytes read."""
        view = memoryview(buffer).cast("B")
        count = max(min(len(view), self._size - self._place), 0)
        if count:
            self._read(self._place, view[:count])
            self._place += count
        return count
