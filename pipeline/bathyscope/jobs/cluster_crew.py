"""One unit done by all processes of a replica at once, each with its part of the model.

The first process leads: it holds the lease, tells the others which unit comes and which turn it
has, writes the rows of its own hook points, and joins what all have written into one outcome, which
is that of a single process with the whole model. Every other process confirms the leader's lease
before each of its shards.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from bathyscope.errors import BathyscopeError, ReplicaLost
from bathyscope.jobs.cluster_ray import own_error
from bathyscope.jobs.unit import AuditGuard, FollowerGuard, Progress
from bathyscope.runs.work import Work
from bathyscope.stages.stage import Guard, Outcome, joined
from bathyscope.stores.leases import Lease, Leases
from bathyscope.stores.objects import Objects
from bathyscope.values import Unit

_GRACE_S = 10.0
_LOOK_S = 1.0


class Crew:
    """Stands in for a stage in the leading process; `others` are the actors of the others."""

    def __init__(self, stage: Any, work: Work, others: Sequence[Any]) -> None:
        self._stage = stage
        self._work = work
        self._others = list(others)
        self._numbering = threading.Lock()
        self._number = 0

    def run(self, unit: Unit, context: Any, guard: Any) -> Outcome:
        """Do one unit with all processes.

        Raises what any of them raises, and `ReplicaLost` when they can do no other unit together.
        """
        lease = guard.lease if guard.keep else None
        with self._numbering:
            number, self._number = self._number, self._number + 1
            futures = [actor.follow.remote(unit, number, lease) for actor in self._others]
        over = threading.Event()
        threading.Thread(target=_watch, args=(futures, over), daemon=True).start()
        try:
            guard.turn = number
            mine = in_turn(self._stage, unit, context, guard, number)
            return joined([mine, *ray.get(futures)], self._work.segment, unit)
        except ReplicaLost:
            raise
        except (BathyscopeError, RayTaskError) as error:
            # All are in step; none may still write when the lease is given back.
            ray.wait(futures, num_returns=len(futures))
            raise own_error(error) from error
        except RayError as error:
            raise ReplicaLost(f"A process of the replica is gone: {error}") from error
        finally:
            over.set()


def follow(
    stage: Any,
    work: Work,
    objects: Objects,
    unit: Unit,
    context: Any,
    *,
    number: int,
    lease: Lease | None,
    report: Progress,
) -> Outcome:
    """One unit in a process that does not lead. `lease` is the leader's; None for an audit.

    `report` is told how far this process is. Raises what the stage raises, and `ReplicaLost`.
    """
    guard: AuditGuard | FollowerGuard
    if lease is None:
        guard = AuditGuard(report)
    else:
        guard = FollowerGuard(Leases(objects, work.segment.name), lease, report)
    guard.turn = number
    return in_turn(stage, unit, context, guard, number)


def in_turn(stage: Any, unit: Unit, context: Any, guard: Guard, number: int) -> Outcome:
    """Run the unit of a turn; an error that leaves the others waiting becomes `ReplicaLost`."""
    try:
        outcome: Outcome = stage.run(unit, context, guard)
    except Exception as error:
        if context.turns.passed > number and isinstance(error, BathyscopeError):
            raise
        raise ReplicaLost(
            f"Unit {unit.index} failed in the middle of its batches, and the other processes of "
            f"this replica wait for them: {type(error).__name__}: {error}"
        ) from error
    return outcome


def _watch(futures: list[Any], over: threading.Event) -> None:
    """End this process when another one is gone and the unit still waits for it."""
    waiting = list(futures)
    while waiting and not over.wait(_LOOK_S):
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=0)
        for future in ready:
            try:
                ray.get(future)
            except RayTaskError as error:
                if isinstance(own_error(error), ReplicaLost):
                    _end(over)
            except RayError:
                _end(over)


def _end(over: threading.Event) -> None:
    # gloo raises by itself when a peer is gone; NCCL would wait for its own long timeout.
    if not over.wait(_GRACE_S):
        os._exit(1)
