"""What the driver knows of a worker: its processes, where they are, and what they do at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bathyscope.jobs.cluster_worker import Place
from bathyscope.jobs.schedule import Task

JOINING, PREPARING, READY = "joining", "preparing", "ready"


@dataclass(eq=False)
class Replica:
    """The driver's handle of one worker."""

    actors: list[Any]
    """Its processes; the first one leads."""
    slot: int
    group: Any = None
    """Ray's reservation for all of its processes, where these are several."""
    state: str = JOINING
    places: dict[int, Place] = field(default_factory=dict)
    """Where its processes are, by their ranks."""
    ready: set[int] = field(default_factory=set)
    """Ranks that have opened the stage."""
    since: float = 0.0
    """When it came into its state."""
    leaving: bool = False
    """Whether its node is going away, so that it gets no more units."""

    def run(self, tasks: Sequence[Task]) -> Any:
        """A future of what became of the units: a `Did` of each that was tried."""
        return self.actor.run.remote(tasks)

    @property
    def actor(self) -> Any:
        """The process that takes units."""
        return self.actors[0]

    @property
    def place(self) -> Place | None:
        """Where that process is."""
        return self.places.get(0)

    @property
    def joined(self) -> bool:
        """Whether all of its processes have said where they are."""
        return len(self.places) == len(self.actors)

    @property
    def nodes(self) -> set[str]:
        """Ray's names of its nodes."""
        return {place.node for place in self.places.values()}

    @property
    def host(self) -> str:
        """Where it lives, for a person."""
        hosts = sorted({place.host for place in self.places.values()})
        return ", ".join(hosts) or "a node"


@dataclass(frozen=True)
class Lane:
    """Who has a unit: one of the units of one of the calls that a worker answers at a time.

    Two calls, because the next unit computes while one is written; several units in a call, where
    they are so short that the call costs as much.
    """

    replica: Replica
    call: int
    place: int = 0
