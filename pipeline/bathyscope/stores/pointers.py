"""Pointers: small records that change, and that only one process at a time can change.

On an object store a pointer is one object, replaced where its etag is still the one that was
read. File systems have no such request, so there it is a folder of create-only numbered objects
of which the highest counts. Whoever creates the next number has made the change.

Old numbers are removed, so a slow process may create one that was there before. Every record
names the one that it follows: a number counts for its creator when the one before it is the one
that was read, and nothing above it, or the next above it follows it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from bathyscope.errors import MissingArtifact
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

# A process that sleeps through so many changes of others, between its own and the look at it, is
# told that it lost.
_KEPT_NUMBERS = 64
_NONCE, _AFTER = "nonce", "after"


@dataclass(frozen=True)
class Held:
    """What a pointer held when it was read, and what a change is compared with."""

    value: Json
    tag: str | int
    """The etag, or the number."""
    nonce: str
    """What tells this change from every other."""


class Pointer:
    """One record under a key. Every process that uses a pointer sees the same order of changes."""

    def __init__(self, objects: Objects, key: str) -> None:
        self._objects = objects
        self._key = key

    def read(self) -> Held | None:
        """What it holds, or None when it holds nothing."""
        if self._objects.has_updates:
            return self._read_tagged()
        return self._read_numbered()

    def swap(self, expected: Held | None, value: Json) -> Held | None:
        """Replace what was read by a value; None when somebody else was faster."""
        # Equal values of two processes must not be taken for one: see Objects.update.
        nonce = secrets.token_hex(8)
        after = expected.nonce if expected else ""
        data = json.dumps({**value, _NONCE: nonce, _AFTER: after}).encode()
        if self._objects.has_updates:
            etag = self._objects.update(self._file, data, str(expected.tag) if expected else None)
            return None if etag is None else Held(value, etag, nonce)
        number = int(expected.tag) + 1 if expected else 1
        if self._create(number, data, nonce, after):
            return Held(value, number, nonce)
        return None

    def change(self, to: Callable[[Json | None], Json | None]) -> Json | None:
        """Apply a function until nobody interferes; the value after it.

        `to` gets what the pointer holds and may be called several times. When it returns None,
        nothing is changed and None is returned.
        """
        while True:
            held = self.read()
            value = to(held.value if held else None)
            if value is None:
                return None
            if self.swap(held, value) is not None:
                return value

    def delete(self) -> None:
        """Remove it; nothing happens when it holds nothing."""
        if self._objects.has_updates:
            self._objects.delete(self._file)
        else:
            self._objects.delete_folder(self._key)

    @property
    def _file(self) -> str:
        return f"{self._key}.json"

    def _read_tagged(self) -> Held | None:
        try:
            data, etag = self._objects.get_tagged(self._file)
        except MissingArtifact:
            return None
        return _held(data, str(etag))

    def _read_numbered(self) -> Held | None:
        while True:
            numbers = self._numbers()
            if not numbers:
                return None
            found = self._look(numbers[-1])
            # None: removed between the listing and the read.
            if found is not None:
                return _held(found, numbers[-1])

    def _create(self, number: int, data: bytes, nonce: str, after: str) -> bool:
        if not self._objects.create(self._numbered(number), data):
            return False
        numbers = self._numbers()
        if not self._counts(number, numbers, nonce, after):
            self._objects.delete(self._numbered(number))
            return False
        for old in numbers[:-_KEPT_NUMBERS]:
            self._objects.delete(self._numbered(old))
        return True

    def _counts(self, number: int, numbers: list[int], nonce: str, after: str) -> bool:
        """Whether a number that was created follows what was read, and others follow it."""
        if number > 1 and self._field(number - 1, _NONCE) != after:
            return False
        if number not in numbers:
            return False
        return numbers[-1] == number or self._field(number + 1, _AFTER) == nonce

    def _field(self, number: int, name: str) -> str | None:
        found = self._look(number)
        return None if found is None else str(json.loads(found)[name])

    def _look(self, number: int) -> bytes | None:
        try:
            return self._objects.get(self._numbered(number))
        except MissingArtifact:
            return None

    def _numbers(self) -> list[int]:
        names = self._objects.files(self._key)
        return sorted(int(name.removesuffix(".json")) for name in names)

    def _numbered(self, number: int) -> str:
        return f"{self._key}/{number:08d}.json"


def _held(data: bytes, tag: str | int) -> Held:
    record: Json = json.loads(data)
    nonce = record.pop(_NONCE)
    del record[_AFTER]
    return Held(record, tag, nonce)
