"""Pointers: small records that change, and that only one process at a time can change.

On an object store a pointer is one object, replaced where its etag is still the one that was
read. File systems have no such request, so there it is a folder of create-only numbered objects
of which the highest counts. Whoever creates the next number has made the change.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from bathyscope.errors import MissingArtifact
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

# Readers may be about to read the last ones that they listed.
_KEPT_NUMBERS = 4
_NONCE = "nonce"


@dataclass(frozen=True)
class Held:
    """What a pointer held when it was read, and what a change is compared with."""

    value: Json
    tag: str | int
    """The etag, or the number."""


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
        data = json.dumps({**value, _NONCE: secrets.token_hex(8)}).encode()
        if self._objects.has_updates:
            etag = self._objects.update(self._file, data, str(expected.tag) if expected else None)
            return None if etag is None else Held(value, etag)
        number = int(expected.tag) + 1 if expected else 1
        return self._create(number, value, data)

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
        return Held(_value(data), str(etag))

    def _read_numbered(self) -> Held | None:
        while True:
            numbers = self._numbers()
            if not numbers:
                return None
            try:
                return Held(_value(self._objects.get(self._numbered(numbers[-1]))), numbers[-1])
            except MissingArtifact:
                # Deleted, or trimmed by newer changes, between the listing and the read.
                continue

    def _create(self, number: int, value: Json, data: bytes) -> Held | None:
        if not self._objects.create(self._numbered(number), data):
            return None
        numbers = self._numbers()
        if number not in numbers:
            # Deleted with the whole pointer while this was on its way.
            return None
        if numbers[-1] > number:
            # This number had been trimmed away: others are far ahead.
            self._objects.delete(self._numbered(number))
            return None
        for old in numbers[:-_KEPT_NUMBERS]:
            self._objects.delete(self._numbered(old))
        return Held(value, number)

    def _numbers(self) -> list[int]:
        names = self._objects.files(self._key)
        return sorted(int(name.removesuffix(".json")) for name in names)

    def _numbered(self, number: int) -> str:
        return f"{self._key}/{number:08d}.json"


def _value(data: bytes) -> Json:
    record: Json = json.loads(data)
    record.pop(_NONCE, None)
    return record
