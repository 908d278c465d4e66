"""Keeps the C library from giving memory back to the system after every layer of a forward.

glibc maps large blocks anew for each tensor and returns them when it is freed. On a CPU a forward
frees and asks for the same megabytes hundreds of times a second, and the kernel fills every page
with zeros each time. `tests/benchmarks/allocator.py` shows what that costs.
"""

from __future__ import annotations

import ctypes
import logging
import os

logger = logging.getLogger(__name__)

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The most that glibc takes; larger blocks are mapped as before.
_MMAP_BYTES = 32 * 2**20
_KEPT_BYTES = 512 * 2**20


def keep_freed_memory() -> bool:
    """Keep up to 512 MiB that are freed, for this process from now on; whether it could be done.

    Only where glibc is the C library, and nobody has set `MALLOC_TRIM_THRESHOLD_` or
    `MALLOC_MMAP_THRESHOLD_`: whoever did knows better.
    """
    if any(f"MALLOC_{name}_THRESHOLD_" in os.environ for name in ("TRIM", "MMAP")):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        # musl and macOS have their own ways.
        return False
    done = mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    if not done:
        logger.info("glibc refused to keep freed memory; forwards on the CPU are slower")
    return bool(done)
