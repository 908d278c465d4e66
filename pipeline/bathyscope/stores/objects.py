"""Objects by key under a URL: local disk, memory, S3 or GCS behind one interface.

Every object is written whole, and either replaces what is there or is created where nothing is.
On a local disk bytes go to a temporary name, which then takes the object's name; with `fsync`
bytes and name are on the disk before the call returns. On object stores a request that broke off
may have done its work all the same: what lies there then decides.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore
from zarr.storage import ObjectStore

from bathyscope.errors import MissingArtifact, StoreError
from bathyscope.stores import files
from bathyscope.stores.conditional import write_if
from bathyscope.stores.connect import connect, local_path
from bathyscope.stores.files import Buffer
from bathyscope.stores.ranges import ObjectFile

__all__ = ["Objects", "local_path"]

_READ_AHEAD_BYTES = 2**18


class Objects:
    """Objects under one URL. Keys use '/'; a prefix narrows the view without another connection."""

    def __init__(self, url: str, prefix: str = "", store: Any = None) -> None:
        self.url = url
        self.prefix = prefix
        self._store = store if store is not None else connect(url)
        root = local_path(url)
        self.local: Path | None = root.absolute() / prefix if root is not None else None
        """The folder, when it is on this disk."""

    def at(self, prefix: str) -> Objects:
        """The same store seen from a folder below this one."""
        return Objects(self.url, self._key(prefix), self._store)

    @property
    def root(self) -> Objects:
        """The same store seen from the URL's root."""
        return Objects(self.url, "", self._store)

    @property
    def location(self) -> str:
        """Path or URL of this folder, as a person would type it."""
        return f"{self.url.rstrip('/')}/{self.prefix}" if self.prefix else self.url

    @property
    def has_updates(self) -> bool:
        """Whether `update` works: file systems have no conditional update."""
        return not isinstance(self._store, LocalStore)

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises `MissingArtifact` when there is none."""
        return self.get_tagged(key)[0]

    def get_tagged(self, key: str) -> tuple[bytes, str | None]:
        """The object's bytes and its etag, which `update` compares."""
        try:
            if self.local is not None:
                # Nothing compares etags here, and a plain read takes a fifth of the time.
                return (self.local / key).read_bytes(), None
            return self._try(key, lambda: self._get(key))
        except (FileNotFoundError, IsADirectoryError):
            raise self._missing(key) from None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes of the object from `start`.

        Raises `MissingArtifact` like `get`, and `StoreError` when the object ends too early.
        """
        data = bytearray(length)
        self.read_into(key, start, [memoryview(data)])
        return bytes(data)

    def read_into(self, key: str, start: int, buffers: Sequence[memoryview]) -> None:
        """Fill buffers in order with the object's bytes from `start`, without another copy.

        One request, or one call on a local disk. Raises like `get_range`.
        """
        wanted = sum(len(b) for b in buffers)
        try:
            got = self._read(key, start, buffers, wanted)
        except FileNotFoundError:
            raise self._missing(key) from None
        if got != wanted:
            raise StoreError(
                f"Object {key} of {self.location} ends after {start + got} bytes; "
                f"{start + wanted} were wanted. It was cut short."
            )

    def open(self, key: str) -> io.BufferedReader:
        """A file object that reads the parts that are asked for. Raises like `get`."""
        size = self.size(key)
        if size is None:
            raise self._missing(key)

        def read(start: int, buffer: memoryview) -> None:
            self.read_into(key, start, [buffer])

        return io.BufferedReader(ObjectFile(size, read), _READ_AHEAD_BYTES)

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, fsync: bool = False) -> None:
        """Write an object whole, replacing what was there. `data` may come in pieces."""
        pieces = _pieces(data)
        if self.local is not None:
            self._write_local(key, pieces, create=False, fsync=fsync)
            return
        body = _joined(pieces)
        self._try(key, lambda: self._put(key, body))

    def create(self, key: str, data: Buffer | Sequence[Buffer], *, fsync: bool = False) -> bool:
        """Write an object if there is none; False when another one is there already.

        True also when an object store already holds these very bytes: a request of ours that
        seemed to fail had landed. Callers that must tell two writers of equal bytes apart put
        something of their own into them.
        """
        pieces = _pieces(data)
        if self.local is not None:
            return self._write_local(key, pieces, create=True, fsync=fsync)
        return self._conditional(key, _joined(pieces), None) is not None

    def update(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Replace an object that still has this etag; its new etag, or None when it has not.

        `etag` None creates it. `data` must differ from what anybody else would write, so that a
        request that broke off after it landed is recognised. Only where `has_updates`.
        """
        assert self.has_updates, self.location
        return self._conditional(key, data, etag)

    def size(self, key: str) -> int | None:
        """Size in bytes, or None when there is no such object."""
        try:
            return int(self._try(key, lambda: obstore.head(self._store, self._key(key)))["size"])
        except FileNotFoundError:
            return None

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self.size(key) is not None

    def walk(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """(key, size) of every object below a folder, in no stated order."""
        cut = len(self.prefix) + 1 if self.prefix else 0
        under = self._key(prefix) or None
        batches = iter(obstore.list(self._store, prefix=under, chunk_size=1000))
        while (batch := self._try(prefix, lambda: next(batches, None))) is not None:
            for meta in batch:
                yield meta["path"][cut:], int(meta["size"])

    def children(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below a folder, sorted."""
        found = self._list(prefix)
        return sorted(path.rsplit("/", 1)[-1] for path in found["common_prefixes"])

    def files(self, prefix: str = "") -> list[str]:
        """Names of the objects directly in a folder, sorted."""
        if self.local is not None:
            return files.names(self.local / prefix)
        found = self._list(prefix)
        return sorted(meta["path"].rsplit("/", 1)[-1] for meta in found["objects"])

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""
        with suppress(FileNotFoundError):
            self._try(key, lambda: obstore.delete(self._store, self._key(key)))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove many objects in few requests and say how many were named."""
        listed = [self._key(key) for key in keys]
        if isinstance(self._store, LocalStore | MemoryStore):
            for path in listed:
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, path)
        elif listed:
            what = f"{listed[0]} and {len(listed) - 1} more"
            self._try(what, lambda: obstore.delete(self._store, listed))
        return len(listed)

    def delete_folder(self, prefix: str) -> int:
        """Remove every object below a folder and say how many there were."""
        return self.delete_many([key for key, _ in self.walk(prefix)])

    def sweep(self, prefix: str) -> None:
        """Remove empty folders and what killed writers left half written, on a local disk.

        Only for folders to which nobody writes: a writer whose temporary file goes away fails.
        Object stores have neither.
        """
        if self.local is None:
            return
        for folder, _, names in os.walk(self.local / prefix, topdown=False):
            for name in filter(files.TEMPORARY.fullmatch, names):
                Path(folder, name).unlink(missing_ok=True)
            with suppress(OSError):
                os.rmdir(folder)

    def zarr(self) -> ObjectStore[Any]:
        """The store as Zarr sees it, from the URL's root."""
        return ObjectStore(self._store)

    def key(self, key: str) -> str:
        """The key seen from the URL's root."""
        return self._key(key)

    def _get(self, key: str) -> tuple[bytes, str | None]:
        found = obstore.get(self._store, self._key(key))
        return bytes(found.bytes()), found.meta["e_tag"]

    def _list(self, prefix: str) -> Any:
        """What lies directly in a folder."""
        under = self._key(prefix) or None
        return self._try(prefix, lambda: obstore.list_with_delimiter(self._store, prefix=under))

    def _conditional(self, key: str, body: Buffer, etag: str | None) -> str | None:
        """Write where the etag is still `etag`, None for nothing there; the new etag, or None."""
        mode: Any = "create" if etag is None else {"e_tag": etag}

        def write() -> str:
            return str(self._put(key, body, mode=mode)["e_tag"])

        try:
            return write_if(write, lambda: self._look(key), body=body, etag=etag)
        except BaseError as error:
            raise self._failed(key, error) from error

    def _put(self, key: str, body: Buffer, mode: Any = None) -> Any:
        return obstore.put(
            self._store, self._key(key), cast(Any, body), mode=mode, use_multipart=False
        )

    def _look(self, key: str) -> tuple[bytes, str | None] | None:
        try:
            return self.get_tagged(key)
        except MissingArtifact:
            return None

    def _try(self, key: str, ask: Callable[[], Any]) -> Any:
        """A request that may be repeated safely, with the error of the store explained."""
        try:
            return ask()
        except BaseError as error:
            raise self._failed(key, error) from error

    def _read(self, key: str, start: int, buffers: Sequence[memoryview], wanted: int) -> int:
        if self.local is not None:
            return files.read_into(self.local / key, start, buffers)
        if wanted == 0:
            return 0
        try:
            found = obstore.get_range(self._store, self._key(key), start=start, length=wanted)
        except BaseError as error:
            size = self.size(key)
            if size is not None and start >= size:
                return size - start
            raise self._failed(key, error) from error
        return _scatter(memoryview(found), buffers)

    def _write_local(
        self, key: str, pieces: Sequence[Buffer], *, create: bool, fsync: bool
    ) -> bool:
        assert self.local is not None
        try:
            return files.write(self.local / key, pieces, create=create, fsync=fsync)
        except OSError as error:
            raise self._failed(key, error) from error

    def _failed(self, key: str, why: Exception | str) -> StoreError:
        cause = (str(why).splitlines() or [type(why).__name__])[0]
        return StoreError(
            f"{key} in {self.location} cannot be written or read: {cause}. Check free space, "
            "permissions and the connection, then give the same command again: finished units "
            "are kept."
        )

    def _missing(self, key: str) -> MissingArtifact:
        return MissingArtifact(
            f"There is no object {key!r} in {self.location}. "
            "Run the stage that makes it, or check the path."
        )

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self.prefix, key.strip("/")) if part)


def _pieces(data: Buffer | Sequence[Buffer]) -> Sequence[Buffer]:
    return [data] if isinstance(data, bytes | bytearray | memoryview) else data


def _joined(pieces: Sequence[Buffer]) -> Buffer:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _scatter(data: memoryview, buffers: Sequence[memoryview]) -> int:
    start = 0
    for buffer in buffers:
        part = data[start : start + len(buffer)]
        buffer[: len(part)] = part
        start += len(part)
    return start
