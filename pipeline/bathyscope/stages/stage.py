"""What a stage is: it lists units, opens what they need, runs one, and finishes the artifact.

`jobs` drives any stage, in this process or over a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bathyscope.config import Config
from bathyscope.runs.work import Begun, Work
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.values import Json, Moments, ShardRecord, Unit


@dataclass(frozen=True)
class Outcome:
    """What one unit gave; the job adds who did it and stores the receipt."""

    valid: int
    shards: tuple[ShardRecord, ...] = ()
    moments: Mapping[str, Mapping[int, Moments]] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


class Guard(Protocol):
    """Stands by while a unit runs."""

    @property
    def keep(self) -> bool:
        """Whether shards are stored; False where a unit is done again only to compare."""
        ...

    def check(self) -> None:
        """Confirm the lease; raises `LeaseLost` when another worker took the unit."""
        ...

    def progress(self, fraction: float, text: str = "") -> None:
        """Say how far the unit is, 0 to 1."""
        ...


class Stage(Protocol):
    """A module of `bathyscope.stages`."""

    def units(self, config: Config) -> Work:
        """The work, from the configuration and the artifacts upstream. Checks bad input."""
        ...

    def open(self, config: Config, work: Work) -> Any:
        """What the units share: models, readers. Made once per worker."""
        ...

    def run(self, unit: Unit, context: Any, guard: Guard) -> Outcome:
        """Do one unit: shards first; the receipt is stored by the caller."""
        ...

    def finish(self, config: Config, begun: Begun, receipts: StoredReceipts) -> Json:
        """Close the artifact: publish its manifest; return the figures to print."""
        ...
