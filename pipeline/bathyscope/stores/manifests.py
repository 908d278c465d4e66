"""Manifests: numbered, create-only records of what a store holds. The highest number counts.

The same rule works on a file system, which has no conditional update, and on an object store.
A manifest says `open` while its units are being done and `complete` afterwards; readers see
complete ones only, so replacing an artifact is one new number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bathyscope.errors import FormatVersionError, MissingArtifact, StoreError
from bathyscope.stores.objects import Objects
from bathyscope.stores.shards import ArraySpec
from bathyscope.values import Json, UnitPlan

FORMAT_VERSION = 1
Count = TypeVar("Count", int, npt.NDArray[np.int64])
OPEN = "open"
COMPLETE = "complete"


@dataclass(frozen=True)
class Segment:
    """A part of a store that is written once: its units and, where it has rows, its arrays."""

    name: str
    plan: UnitPlan
    rows_per_item: int = 1
    """P: row r of a unit belongs to item start + r // P, position r % P.

    An array may have a P of its own: layers of an image model have maps of several sizes.
    """
    arrays: tuple[ArraySpec, ...] = ()
    rows_per_unit: int = 1
    """Rows of a full unit, padded to whole shards of every array that has the segment's P."""

    def per_item(self, name: str) -> int:
        """P of an array."""
        return self.array(name).rows_per_item or self.rows_per_item

    def unit_rows(self, name: str) -> int:
        """Rows of a full unit of an array, padded to whole shards."""
        spec = self.array(name)
        if not spec.rows_per_item:
            return self.rows_per_unit
        return (
            -(-self.plan.items_per_unit * spec.rows_per_item // spec.shard_rows) * spec.shard_rows
        )

    def unit_shards(self, name: str) -> int:
        """Shards of a unit of an array."""
        return self.unit_rows(name) // self.array(name).shard_rows

    def valid_rows(self, name: str, valid: Count) -> Count:
        """Rows of an array in a unit whose receipt counts `valid` rows of the segment's P."""
        own = self.array(name).rows_per_item
        return valid // self.rows_per_item * own if own else valid

    def capacity(self, name: str) -> int:
        """Rows of all units of an array, padding included: its first axis."""
        return self.unit_rows(name) * self.plan.num_units

    def array(self, name: str) -> ArraySpec:
        """The array of that name."""
        for spec in self.arrays:
            if spec.name == name:
                return spec
        have = ", ".join(a.name for a in self.arrays) or "none"
        raise MissingArtifact(f"Segment {self.name} has no array {name!r}. It has: {have}.")

    def to_dict(self) -> Json:
        """A JSON form that `from_dict` reads back."""
        return {
            "name": self.name,
            "plan": self.plan.to_dict(),
            "rows_per_item": self.rows_per_item,
            "rows_per_unit": self.rows_per_unit,
            "arrays": [a.to_dict() for a in self.arrays],
        }

    @classmethod
    def from_dict(cls, data: Json) -> Segment:
        """The segment that `to_dict` wrote."""
        return cls(
            name=data["name"],
            plan=UnitPlan.from_dict(data["plan"]),
            rows_per_item=data["rows_per_item"],
            arrays=tuple(ArraySpec.from_dict(a) for a in data["arrays"]),
            rows_per_unit=data["rows_per_unit"],
        )


@dataclass(frozen=True)
class Manifest:
    """What a store holds, and what it was made from."""

    state: str
    identity: Json
    segments: tuple[Segment, ...]
    facts: Json = field(default_factory=dict)
    """What the stage wants readers to know: sizes, names, figures."""
    number: int = 0


def latest(objects: Objects, *, state: str | None = None) -> Manifest | None:
    """The newest manifest, or the newest in the given state; None when there is none."""
    return next((m for m in every(objects) if state is None or m.state == state), None)


def every(objects: Objects) -> Iterator[Manifest]:
    """All manifests, the newest first."""
    for key in sorted((key for key, _ in objects.walk("manifests")), reverse=True):
        yield _parse(objects, key)


def publish(objects: Objects, manifest: Manifest) -> Manifest:
    """Write the next manifest. Raises `StoreError` when somebody else published meanwhile."""
    newest = latest(objects)
    number = newest.number + 1 if newest else 1
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "state": manifest.state,
        "identity": manifest.identity,
        "segments": [s.to_dict() for s in manifest.segments],
        "facts": manifest.facts,
    }
    data = json.dumps(record, indent=1).encode()
    if not objects.create(f"manifests/{number:08d}.json", data, fsync=True):
        raise StoreError(
            f"Another process published manifest {number} of {objects.location} at the same time. "
            "Two runs write to one folder: stop one of them and run again."
        )
    return Manifest(manifest.state, manifest.identity, manifest.segments, manifest.facts, number)


def _parse(objects: Objects, key: str) -> Manifest:
    record = json.loads(objects.get(key))
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"{objects.location} was written in format version {version}; this Bathyscope reads "
            f"version {FORMAT_VERSION}. Open it with the version that wrote it (see run.json)."
        )
    segments = tuple(Segment.from_dict(s) for s in record["segments"])
    number = int(key.rsplit("/", 1)[-1].removesuffix(".json"))
    return Manifest(record["state"], record["identity"], segments, record["facts"], number)
