"""Work that one process of a machine does for all."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def one_process(lock: Path) -> Iterator[None]:
    """Hold a file lock; the system releases it when the process ends, however it ends.

    On a file system without locks all processes go on at once, and the log says so.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning("%s cannot be locked (%s); each process does the work", lock, error)
        yield
