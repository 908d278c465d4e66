"""States from which a ladder's trainings go on: one object each, replaced whole.

It is safetensors with a record as its metadata, behind the digest of both.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import xxhash
from safetensors.torch import load, save

from bathyscope.errors import StoreError
from bathyscope.stores.objects import Objects
from bathyscope.training.language import LanguagePoint, LanguageState
from bathyscope.values import Json

_DIGEST_BYTES = 32


class LadderStates:
    """The states of the units of one segment."""

    def __init__(self, objects: Objects, segment: str) -> None:
        self._objects = objects.at(f"states/{segment}")

    def write(self, unit: int, state: LanguageState) -> None:
        """Store the state of a unit; the one before it goes."""
        facts = asdict(_without_tensors(state))
        del facts["tensors"]
        tensors = {name: t.detach().cpu().contiguous() for name, t in state.tensors.items()}
        body = save(tensors, metadata={"state": json.dumps(facts)})
        digest = xxhash.xxh3_128_hexdigest(body).encode()
        self._objects.put(_key(unit), [digest, body], fsync=True)

    def read(self, unit: int) -> LanguageState | None:
        """The state of a unit; None before the first. Raises `StoreError` for a damaged one."""
        if not self._objects.exists(_key(unit)):
            return None
        data = self._objects.get(_key(unit))
        digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if xxhash.xxh3_128_hexdigest(body).encode() != digest:
            raise StoreError(
                f"{_key(unit)} in {self._objects.location} is damaged. Remove it, and that model "
                "is trained from its beginning."
            )
        facts = _facts(body)
        facts["curve"] = [LanguagePoint(**point) for point in facts["curve"]]
        facts["since"] = tuple(facts["since"])
        return LanguageState(**facts, tensors=load(body))


def _without_tensors(state: LanguageState) -> LanguageState:
    return LanguageState(**{**vars(state), "tensors": {}})


def _facts(body: bytes) -> Json:
    """The record in the header of safetensors: its length in 8 bytes, then JSON."""
    length = int.from_bytes(body[:8], "little")
    record: Json = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["state"])
    return record


def _key(unit: int) -> str:
    return f"{unit:06d}.safetensors"
