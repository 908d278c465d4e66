"""Room for the units of a harvest whose store is bounded: each waits until there is some."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np

from bathyscope.config import Config
from bathyscope.stages.stage import Guard
from bathyscope.stages.streamed import windows_of
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.streaming import Streaming, most_unit_bytes
from bathyscope.values import TRAIN, ShardRecord, Unit

_LOOK_S = 0.2


class Room(Protocol):
    """Whether a unit may be written."""

    def wait(self, unit: Unit, guard: Guard) -> None:
        """Return when there is room for a unit. Raises what the guard raises."""
        ...

    def written(self, unit: Unit, shards: tuple[ShardRecord, ...]) -> None:
        """Say what a unit takes."""
        ...


class Endless:
    """A store that keeps everything."""

    def wait(self, unit: Unit, guard: Guard) -> None:
        """There is room."""

    def written(self, unit: Unit, shards: tuple[ShardRecord, ...]) -> None:
        """Nobody asks."""


class Bounded:
    """A store of `store.limit_bytes`. Units get room in their order, whoever asks first."""

    def __init__(self, objects: Objects, segment: Segment, limit_bytes: int) -> None:
        self._streaming = Streaming(objects, segment)
        self._segment = segment
        self._limit_bytes = limit_bytes
        self._streaming.limit(limit_bytes)

    def wait(self, unit: Unit, guard: Guard) -> None:
        """Return when there is room for a unit and for all before it."""
        if not guard.keep:
            return
        while unit.index not in self._streaming.reserve(self._up_to(unit)):
            guard.progress(
                0.0,
                f"unit {unit.index} waits for room: {self._streaming.held_bytes():,} of "
                f"{self._limit_bytes:,} bytes are held until a training has read them",
            )
            time.sleep(_LOOK_S)

    def written(self, unit: Unit, shards: tuple[ShardRecord, ...]) -> None:
        """Say what a unit takes."""
        self._streaming.written({unit.index: sum(shard.size_bytes for shard in shards)})

    def _up_to(self, unit: Unit) -> list[int]:
        """The units that must have room before it, and itself: none may take another's."""
        first = self._segment.plan.indices(unit.split).start
        gone = self._streaming.retired()
        gone = gone[gone >= first]
        # Windows go in their order, so what is gone is mostly what comes first.
        first += int((gone == first + np.arange(len(gone))).cumprod().sum())
        before = np.setdiff1d(np.arange(first, unit.index), gone)
        # Held-out rows stay, so they have room before all others.
        return [*self._held_out(unit), *before.tolist(), unit.index]

    def _held_out(self, unit: Unit) -> list[int]:
        if unit.split != TRAIN:
            return []
        plan = self._segment.plan
        return [i for split, _, _ in plan.ranges if split != TRAIN for i in plan.indices(split)]


def check_room(config: Config, segment: Segment) -> None:
    """Raise `ConfigError` for a limit that does not hold a window of units."""
    if config.store.limit_bytes:
        windows_of(config, segment, most_unit_bytes(segment))


def room_of(config: Config, objects: Objects, segment: Segment) -> Room:
    """The room of a harvest."""
    limit = config.store.limit_bytes
    return Bounded(objects, segment, limit) if limit else Endless()
