"""What a seed of the chaos test does to a night, drawn from the seed alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

IN_FLIGHT = ("kill_worker_in_write", "kill_node_in_write", "cut_node_in_write")
"""While a shard is being put: the request is held open, and only then its node is struck."""
OF_CLUSTER = ("kill_worker", "kill_node", "cut_node", "kill_driver")
OF_STORAGE = ("store_lost", "store_landed", "store_conflict", "store_unavailable", "store_slow")
KINDS = (*IN_FLIGHT, *OF_CLUSTER, *OF_STORAGE)

_LASTS_S = {"cut": (0.5, 9.0), "kill_node": (0.0, 6.0), "store": (0.5, 5.0), "kill_driver": (0, 3)}
_LAST_WRITE = 0.6


@dataclass(frozen=True)
class Fault:
    """One fault: what, to whom, and when."""

    kind: str
    after: float
    """When this share of the night's units is done,"""
    then_s: float
    """and so many seconds later."""
    node: int
    """Which of the nodes that may be lost."""
    lasts_s: float
    """For how long a cable is out, a node or driver away, a store slow or unavailable."""
    requests: int
    """How many requests break off or are refused."""
    lands: bool
    """Whether a put that is in flight is stored all the same."""


def schedule_of(seed: int, nodes: int = 2) -> list[Fault]:
    """Four faults of a seed, in the order of their times: one of each group, and any other.

    Every kind comes first in its group as often as the others, over the seeds.
    """
    rng = np.random.default_rng(seed)
    groups = (IN_FLIGHT, OF_CLUSTER, OF_STORAGE)
    kinds = [group[seed % len(group)] for group in groups]
    kinds.append(str(rng.choice(KINDS)))
    faults = [_drawn(kind, nodes, rng) for kind in kinds]
    return sorted(faults, key=lambda fault: fault.after)


def as_json(faults: list[Fault]) -> list[dict[str, Any]]:
    """The schedule as it is saved."""
    return [asdict(fault) for fault in faults]


def from_json(rows: list[dict[str, Any]]) -> list[Fault]:
    """The schedule as it was saved, to be replayed."""
    return [Fault(**row) for row in rows]


def _drawn(kind: str, nodes: int, rng: np.random.Generator) -> Fault:
    # Shards are written in the first part of an extraction, and not at the end of a night.
    last = _LAST_WRITE if kind in IN_FLIGHT else 1.0
    least, most = next((r for k, r in _LASTS_S.items() if kind.startswith(k)), (0.0, 0.0))
    return Fault(
        kind=kind,
        after=round(float(rng.uniform(0.0, last)), 3),
        then_s=round(float(rng.uniform(0.0, 1.5)), 3),
        node=int(rng.integers(nodes)),
        lasts_s=round(float(rng.uniform(least, most)), 2),
        requests=int(rng.integers(1, 7)),
        lands=bool(rng.integers(2)),
    )
