"""Objects by key under a URL: local disk, memory, S3 or GCS behind one interface.

Local writes go to a temporary name and are renamed, so a reader never sees half an object.
Nothing is fsynced: after a power cut, receipts may name shards that the disk lost, and the
size and digest checks find them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, MemoryStore, from_url
from zarr.storage import ObjectStore

from bathyscope.errors import MissingArtifact, StoreError

_MEMORY: dict[str, MemoryStore] = {}
# What a local put writes before the rename; no listing shows it.
_TEMPORARY = re.compile(r".*#\d+")


class Objects:
    """Objects under one URL. Keys use '/'; a prefix narrows the view without another connection."""

    def __init__(self, url: str, prefix: str = "", store: Any = None) -> None:
        self.url = url
        self.prefix = prefix
        self._store = store if store is not None else _connect(url)

    def at(self, prefix: str) -> Objects:
        """The same store seen from a folder below this one."""
        return Objects(self.url, self._key(prefix), self._store)

    @property
    def location(self) -> str:
        """Path or URL of this folder, as a person would type it."""
        return f"{self.url.rstrip('/')}/{self.prefix}" if self.prefix else self.url

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises `MissingArtifact` when there is none."""
        try:
            return bytes(obstore.get(self._store, self._key(key)).bytes())
        except FileNotFoundError:
            raise self._missing(key) from None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes of the object from `start`. Raises `MissingArtifact` like `get`."""
        try:
            found = obstore.get_range(self._store, self._key(key), start=start, length=length)
        except FileNotFoundError:
            raise self._missing(key) from None
        return bytes(found)

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write an object whole, replacing what was there."""
        obstore.put(self._store, self._key(key), cast(Any, data), use_multipart=False)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none; False when one is there already."""
        try:
            obstore.put(self._store, self._key(key), data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def size(self, key: str) -> int | None:
        """Size in bytes, or None when there is no such object."""
        try:
            return int(obstore.head(self._store, self._key(key))["size"])
        except FileNotFoundError:
            return None

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self.size(key) is not None

    def walk(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """(key, size) of every object below a folder, in no stated order."""
        cut = len(self.prefix) + 1 if self.prefix else 0
        for batch in obstore.list(self._store, prefix=self._key(prefix) or None):
            for meta in batch:
                yield meta["path"][cut:], int(meta["size"])

    def children(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below a folder, sorted."""
        found = obstore.list_with_delimiter(self._store, prefix=self._key(prefix) or None)
        return sorted(path.rsplit("/", 1)[-1] for path in found["common_prefixes"])

    def files(self, prefix: str = "") -> list[str]:
        """Names of the objects directly in a folder, sorted."""
        found = obstore.list_with_delimiter(self._store, prefix=self._key(prefix) or None)
        return sorted(meta["path"].rsplit("/", 1)[-1] for meta in found["objects"])

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""
        try:
            obstore.delete(self._store, self._key(key))
        except FileNotFoundError:
            return

    def delete_folder(self, prefix: str) -> int:
        """Remove every object below a folder and say how many there were."""
        keys = [key for key, _ in self.walk(prefix)]
        for key in keys:
            self.delete(key)
        return len(keys)

    def sweep(self, prefix: str) -> None:
        """Remove empty folders and what killed writers left half written, on a local disk.

        Only for folders to which nobody writes: a writer whose temporary file goes away fails.
        Object stores have neither.
        """
        root = local_path(self.url)
        if root is None:
            return
        for folder, _, files in os.walk(root / self._key(prefix), topdown=False):
            for file in filter(_TEMPORARY.fullmatch, files):
                Path(folder, file).unlink(missing_ok=True)
            with suppress(OSError):
                os.rmdir(folder)

    def zarr(self) -> ObjectStore[Any]:
        """The store as Zarr sees it, from the URL's root."""
        return ObjectStore(self._store)

    def key(self, key: str) -> str:
        """The key seen from the URL's root."""
        return self._key(key)

    def _missing(self, key: str) -> MissingArtifact:
        return MissingArtifact(
            f"There is no object {key!r} in {self.location}. "
            "Run the stage that makes it, or check the path."
        )

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self.prefix, key.strip("/")) if part)


def local_path(url: str) -> Path | None:
    """The folder behind a path or file:// URL, or None when the URL is not on this disk."""
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    return None if "://" in url else Path(url).expanduser()


def _connect(url: str) -> Any:
    if url.startswith("memory://"):
        return _MEMORY.setdefault(url, MemoryStore())
    path = local_path(url)
    if path is not None:
        for part in (path, *path.parents):
            if part.exists() and not part.is_dir():
                raise StoreError(f"{part} is a file. A folder was wanted: choose another path.")
        # Folders that a deletion empties go too: a folder means that something is in it.
        return LocalStore(str(path.absolute()), mkdir=True, automatic_cleanup=True)
    return from_url(url)
