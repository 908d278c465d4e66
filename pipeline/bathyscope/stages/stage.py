"""What a stage is: it lists units, opens what they need, runs one, and finishes the artifact.

`jobs` drives any stage, in this process or over a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bathyscope.config import Config
from bathyscope.runs.work import Begun, Work
from bathyscope.stores.manifests import Segment
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.stores.units import shard_keys
from bathyscope.values import Json, Moments, ShardRecord, Unit


@dataclass(frozen=True)
class Outcome:
    """What one unit gave; the job adds who did it and stores the receipt."""

    valid: int
    shards: tuple[ShardRecord, ...] = ()
    moments: Mapping[str, Mapping[int, Moments]] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


def joined(outcomes: Sequence[Outcome], segment: Segment, unit: Unit) -> Outcome:
    """One outcome of those of several processes, each with arrays of its own.

    It is the one that a single process would have had: shards and moments in the order of the
    segment's arrays, everything else as in the first.
    """
    shards = {record.key: record for outcome in outcomes for record in outcome.shards}
    moments = {name: sums for outcome in outcomes for name, sums in outcome.moments.items()}
    first = outcomes[0]
    return Outcome(
        valid=first.valid,
        shards=tuple(shards[key] for key in shard_keys(segment, unit)),
        moments={spec.name: moments[spec.name] for spec in segment.arrays if spec.name in moments},
        figures=first.figures,
    )


class Guard(Protocol):
    """Stands by while a unit runs."""

    @property
    def keep(self) -> bool:
        """Whether shards are stored; False where a unit is done again only to compare."""
        ...

    @property
    def turn(self) -> int | None:
        """When the unit computes, where several processes do it together; None where one does."""
        ...

    def check(self) -> None:
        """Confirm the lease; raises `LeaseLost` when another worker took the unit."""
        ...

    def progress(self, fraction: float, text: str = "") -> None:
        """Say how far the unit is, 0 to 1."""
        ...


class Stage(Protocol):
    """A module of `bathyscope.stages`.

    It may say more of itself: `LANES`, units that a worker has at a time (1); `AUDITED`, whether
    units may be done again to compare (no); `PARTS`, whether several processes do a unit together
    (no), and `processes(config)`, how many, where the cluster's replicas do not say. Then `open`
    takes (rank, processes) as well, and what it returns has `turns`, which keep one order of units
    in all of them.
    """

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
