"""What nights of `bathyscope nightly` published, and what is left of those that were let go.

`objects` is the folder of nights of a run.
"""

from __future__ import annotations

import json

import pyarrow as pa

from bathyscope.errors import MissingArtifact
from bathyscope.runs.tables import from_parquet
from bathyscope.stores.manifests import COMPLETE, every
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

ARCHIVE = "archive.jsonl"
"""A line of JSON for each night that was let go."""


def night_of(objects: Objects, number: int | None = None) -> Json:
    """What a night published; the last one without a number. Raises `MissingArtifact`."""
    for found in every(objects):
        if found.state == COMPLETE and number in (None, found.facts["night"]):
            return found.facts
    if any(number == each["night"] for each in archived_nights(objects)):
        raise MissingArtifact(
            f"Night {number} of {objects.location} was let go (nightly.keep_nights). `nights()` "
            "has what it found in one line."
        )
    which = "no night" if number is None else f"no night {number}"
    raise MissingArtifact(f"{objects.location} has {which}. Run `bathyscope nightly`.")


def all_nights(objects: Objects) -> list[Json]:
    """Every complete night, the oldest first; a line of those that were let go."""
    kept = [found.facts for found in every(objects) if found.state == COMPLETE]
    there = {facts["night"] for facts in kept}
    gone = [each for each in archived_nights(objects) if each["night"] not in there]
    return sorted([*gone, *kept], key=lambda facts: int(facts["night"]))


def archived_nights(objects: Objects) -> list[Json]:
    """The lines of nights that were let go, the oldest first."""
    if not objects.exists(ARCHIVE):
        return []
    return [json.loads(line) for line in objects.get(ARCHIVE).splitlines()]


def table_of_night(objects: Objects, checkpoint: str, name: str) -> pa.Table:
    """A table that the last night merged for a checkpoint. Raises `MissingArtifact`."""
    tables = night_of(objects)["tables"]
    if checkpoint not in tables:
        have = ", ".join(tables) or "none"
        raise MissingArtifact(f"No night has read text with {checkpoint!r}. There are: {have}.")
    return from_parquet(objects.get(f"{tables[checkpoint]}/{name}.parquet"))
