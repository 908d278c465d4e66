"""Streaming: units are read while others are written, and deleted when everybody has passed them.

The store of a segment then holds no more than a stated number of bytes. One pointer says what is
held, who reads and what is gone, so that every step is atomic:

    a writer reserves the bytes of a unit before it writes the first of them;
    a consumer registers, says which units it has passed, and is forgotten when it falls silent;
    a unit that every registered consumer has passed is marked as retired, then its shards are
    deleted, then its bytes are free. Held-out units stay.

Receipts stay too: a retired unit is done, and its sums and counts are known. Readers leave it
out. A process that dies in between leaves a unit that is retired and still holds bytes; the next
call of `retire` by anybody goes on.

The pointer changes with every call: name several units at once where there are many workers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from bathyscope.errors import ConfigError, LeaseLost
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.retired import retired_units, streaming_pointer
from bathyscope.stores.unit_ranges import add, holds
from bathyscope.stores.units import shards_of
from bathyscope.values import HELD_OUT, Json

DEFAULT_SECONDS = 600.0


class Streaming:
    """The space of one segment. `clock` gives seconds since the epoch."""

    def __init__(
        self, objects: Objects, segment: Segment, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._objects = objects
        self._segment = segment
        self._clock = clock
        self._pointer = streaming_pointer(objects, segment.name)

    def limit(self, limit_bytes: int) -> None:
        """State how many bytes the segment may hold. Raises `ConfigError` for less than a unit."""
        most = self.unit_bytes
        if limit_bytes < most:
            raise ConfigError(
                f"A store of {limit_bytes} bytes cannot hold one unit of {self._objects.location}, "
                f"which takes {most}. Raise the limit or choose smaller units."
            )

        def to(state: Json) -> Json:
            return {**state, "limit_bytes": limit_bytes}

        self._change(to)

    @property
    def unit_bytes(self) -> int:
        """The most that a unit can take: uncompressed, with 64 bytes more for every chunk."""
        return most_unit_bytes(self._segment)

    def reserve(self, units: Iterable[int]) -> list[int]:
        """Units of these that may be written now: in order, as far as there is room.

        Units that hold their bytes already, or are retired, need none and are among them.
        """
        granted: list[int] = []

        def to(state: Json) -> Json:
            granted.clear()
            room = state["limit_bytes"] - sum(state["held"].values())
            for unit in units:
                if str(unit) not in state["held"] and not holds(state["retired"], unit):
                    if room < self.unit_bytes:
                        continue
                    room -= self.unit_bytes
                    state["held"][str(unit)] = self.unit_bytes
                granted.append(unit)
            return state

        units = list(units)
        self._change(to)
        return granted

    def written(self, sizes: Mapping[int, int]) -> None:
        """State the bytes that units take now that they are stored."""

        def to(state: Json) -> Json:
            for unit, size in sizes.items():
                if str(unit) in state["held"]:
                    state["held"][str(unit)] = size
            return state

        self._change(to)

    def register(self, consumer: str, *, seconds: float = DEFAULT_SECONDS) -> None:
        """Hold every unit that is there until this consumer has passed it.

        It must be heard of within `seconds`, again and again. Registering anew starts afresh.
        """

        def to(state: Json) -> Json:
            until = self._clock() + seconds
            state["consumers"][consumer] = {"until": until, "seconds": seconds, "passed": []}
            return state

        self._change(to)

    def passed(self, consumer: str, units: Iterable[int] = ()) -> None:
        """Say which units a consumer needs no more, or only that it is alive.

        Raises `LeaseLost` when it was silent for too long: units may be gone that it wanted.
        """
        named = list(units)

        def to(state: Json) -> Json:
            self._expire(state)
            entry = state["consumers"].get(consumer)
            if entry is None:
                raise LeaseLost(
                    f"Consumer {consumer!r} of {self._objects.location} was not heard of in time, "
                    "and units may be gone that it had not read. Register again and start from "
                    "what is there, or allow more seconds."
                )
            entry["until"] = self._clock() + entry["seconds"]
            entry["passed"] = add(entry["passed"], named)
            state["seen"] = add(state["seen"], named)
            return state

        self._change(to)

    def leave(self, consumer: str) -> None:
        """Hold no unit any more for this consumer."""

        def to(state: Json) -> Json:
            state["consumers"].pop(consumer, None)
            return state

        self._change(to)

    def retire(self) -> list[int]:
        """Delete every unit that all consumers have passed; the units whose bytes are now free."""
        doomed: list[int] = []

        def mark(state: Json) -> Json:
            self._expire(state)
            doomed[:] = self._doomed(state)
            state["retired"] = add(state["retired"], doomed)
            return state

        def release(state: Json) -> Json:
            for unit in doomed:
                state["held"].pop(str(unit), None)
            return state

        self._change(mark)
        for unit in doomed:
            self._objects.delete_many(self._shards(unit))
        if doomed:
            self._change(release)
        return doomed

    def retired(self) -> npt.NDArray[np.int64]:
        """Units that are done, read and deleted, sorted."""
        return retired_units(self._objects, self._segment.name)

    def held_bytes(self) -> int:
        """Bytes that are reserved or stored."""
        held = self._pointer.read()
        return sum(held.value["held"].values()) if held else 0

    def _doomed(self, state: Json) -> list[int]:
        """Held units that every consumer has passed, and those that were left half deleted."""
        consumers = [entry["passed"] for entry in state["consumers"].values()]
        doomed = []
        for unit in map(int, state["held"]):
            if holds(state["retired"], unit):
                doomed.append(unit)
                continue
            wanted = not all(holds(passed, unit) for passed in consumers)
            kept = self._segment.plan.unit(unit).split == HELD_OUT
            if holds(state["seen"], unit) and not wanted and not kept:
                doomed.append(unit)
        return sorted(doomed)

    def _expire(self, state: Json) -> None:
        now = self._clock()
        entries = state["consumers"].items()
        state["consumers"] = {name: e for name, e in entries if e["until"] > now}

    def _shards(self, unit: int) -> list[str]:
        found = self._segment.plan.unit(unit)
        return [
            spec.shard_key(self._segment.name, shard)
            for spec in self._segment.arrays
            for shard in shards_of(self._segment, found, spec.name)
        ]

    def _change(self, to: Callable[[Json], Json]) -> None:
        def apply(value: Json | None) -> Json:
            return to(copy.deepcopy(value) if value else _empty())

        self._pointer.change(apply)


def most_unit_bytes(segment: Segment) -> int:
    """The most that a unit of a segment can take."""
    return sum(
        (spec.shard_bytes + 64 * spec.chunks_per_shard) * segment.unit_shards(spec.name)
        for spec in segment.arrays
    )


def _empty() -> Json:
    # Without a limit everything may be stored.
    return {"limit_bytes": 2**62, "held": {}, "retired": [], "seen": [], "consumers": {}}
