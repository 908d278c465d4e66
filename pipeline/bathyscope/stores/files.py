"""Files of a local disk, written whole and read in place.

A file is filled under a temporary name and then takes its own, so that no reader sees half of
it. The temporary name ends in `#` and digits, which listings of the store leave out.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

Buffer = bytes | bytearray | memoryview

TEMPORARY = re.compile(r".*#\d+")
"""Names of files that are being written, here and by obstore."""

# What Linux takes in one call of writev or readv.
_MOST_PIECES = 1024


def write(path: Path, pieces: Sequence[Buffer], *, create: bool, fsync: bool) -> bool:
    """Write a file from pieces, without joining them; False when `create` finds one there.

    With `fsync` the bytes and the name are on the disk when this returns. Raises `OSError`.
    """
    temporary = path.with_name(f"{path.name}#{random.SystemRandom().randrange(10**18)}")
    descriptor = _open_new(temporary)
    try:
        try:
            _write_all(descriptor, pieces)
            if fsync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            if create and not _link(temporary, path):
                return False
            if not create:
                os.replace(temporary, path)
        except FileNotFoundError:
            # Another run finished here, and swept, while this process slept.
            if create and path.exists():
                return False
            raise _swept(path) from None
    finally:
        # Gone already when it took its name.
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    if fsync:
        sync_folder(path.parent)
    return True


def names(folder: Path) -> list[str]:
    """Names of the files directly in a folder, sorted, without those that are being written."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                e.name for e in entries if e.is_file() and not TEMPORARY.fullmatch(e.name)
            )
    except FileNotFoundError:
        return []


def read_into(path: Path, start: int, buffers: Sequence[memoryview]) -> int:
    """Fill buffers in order from a place in a file; the number of bytes that there were."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_descriptor(descriptor, start, buffers)
    finally:
        os.close(descriptor)


def read_descriptor(descriptor: int, start: int, buffers: Sequence[memoryview]) -> int:
    """`read_into` for an open file. Several threads may share the descriptor."""
    done = 0
    waiting = [b for b in buffers if len(b)]
    while waiting:
        got = os.preadv(descriptor, waiting[:_MOST_PIECES], start + done)
        if got == 0:
            break
        done += got
        waiting = _rest(waiting, got)
    return done


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, as fsync brings a file's bytes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_new(path: Path) -> int:
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileNotFoundError:
            # The first file of its folder; a sweep may also have just removed an empty one.
            path.parent.mkdir(parents=True, exist_ok=True)


def _swept(path: Path) -> OSError:
    return OSError(f"{path.name} was being written when another run finished here and swept up")


def _link(temporary: Path, path: Path) -> bool:
    # A link fails when the name is taken; a rename would replace what is there.
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    return True


def _write_all(descriptor: int, pieces: Iterable[Buffer]) -> None:
    waiting = [view for view in map(_bytes, pieces) if len(view)]
    while waiting:
        waiting = _rest(waiting, os.writev(descriptor, waiting[:_MOST_PIECES]))


def _rest(views: list[memoryview], done: int) -> list[memoryview]:
    """What is left of the views after some bytes."""
    for place, view in enumerate(views):
        if done < len(view):
            return [view[done:], *views[place + 1 :]]
        done -= len(view)
    return []


def _bytes(piece: Buffer) -> memoryview:
    return memoryview(piece).cast("B")
