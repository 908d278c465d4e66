"""The workers of a Ray cluster: they join when there is room, open the stage, and are replaced.

Each worker has a slot. A slot asks Ray for an actor, and Ray gives one as soon as a node has room
for it, now or hours later. Only workers that have opened the stage are given units; the first one
starts the work. A slot whose workers die again and again is given up, and a node whose workers are
refused (other versions, no checkpoint there) gets no more of them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from bathyscope.config import ClusterConfig
from bathyscope.errors import BathyscopeError, JobError, StoreError
from bathyscope.jobs.cluster_actors import start_workers, stop_workers
from bathyscope.jobs.cluster_ray import own_error, resources_of_process, why_waiting
from bathyscope.jobs.cluster_replica import PREPARING, READY, Replica
from bathyscope.jobs.cluster_worker import Place, StageJob
from bathyscope.jobs.sink import Sink
from bathyscope.jobs.versions import check_versions, versions
from bathyscope.jobs.world import seats

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_TELL_WAITING_S = 30.0
_CLOSE_S = 30.0


@dataclass
class _Slot:
    deaths: int = 0
    """In a row, without a unit done in between."""
    ask_at: float | None = 0.0
    """When to ask for a worker; None while there is one, or the slot is given up."""
    given_up: bool = False


class Fleet:
    """All workers of one cluster; they outlive stages."""

    def __init__(self, settings: ClusterConfig) -> None:
        self._settings = settings
        self._slots = [_Slot() for _ in range(settings.workers)]
        self._answers: dict[Any, tuple[Replica, int]] = {}
        self._replicas: list[Replica] = []
        self._refused: set[str] = set()
        self._members: set[tuple[str, int]] = set()
        self._job: Any = None
        self._stages = 0
        self._deaths = 0
        self._told_at = 0.0

    @property
    def ready(self) -> list[Replica]:
        """Workers that have opened the stage."""
        return [r for r in self._replicas if r.state == READY and not r.leaving]

    @property
    def answers(self) -> list[Any]:
        """Futures of workers that join or open the stage; give those that are ready to `heard`."""
        return list(self._answers)

    @property
    def replicas(self) -> list[Replica]:
        """Workers that Ray has given, or was asked for."""
        return list(self._replicas)

    def open_stage(self, job: StageJob, now: float) -> None:
        """Have every worker open a stage, also those that join later."""
        self._stages += 1
        self._job = ray.put(dataclasses.replace(job, number=self._stages))
        self._told_at = now
        for replica in self._replicas:
            if replica.joined:
                self._prepare(replica, now)

    def close_stage(self, now: float, sink: Sink) -> None:
        """Have every worker let go of the stage; those that do not answer are replaced."""
        self._job = None
        asked = {actor.close.remote(): r for r in self.ready for actor in r.actors}
        if not asked:
            return
        _, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_CLOSE_S)
        for future in silent:
            self.lost(asked[future], now, "did not let go of the stage", sink)

    def tick(self, now: float, sink: Sink) -> None:
        """Ask for workers where it is time; give up those that do not come to open the stage."""
        for number, slot in enumerate(self._slots):
            if slot.ask_at is not None and slot.ask_at <= now:
                slot.ask_at = None
                self._ask(number, now)
        for replica in list(self._replicas):
            if replica.state == PREPARING and now - replica.since > self._settings.start_s:
                self.lost(replica, now, "did not open the stage in cluster.start_s", sink)
        if not any(r.joined for r in self._replicas) and now - self._told_at > _TELL_WAITING_S:
            self._told_at = now
            sink.note(f"waiting for workers: {why_waiting(self._settings)}")

    def heard(self, future: Any, now: float, sink: Sink) -> None:
        """Go on with a worker that has joined, or opened the stage, or failed at it.

        Raises the worker's error when no node is left that is not refused.
        """
        replica, rank = self._answers.pop(future, (None, 0))
        if replica is None:
            # Of a worker that was lost a moment ago, together with its other answers.
            return
        try:
            answer = ray.get(future)
        except (ActorDiedError, ActorUnavailableError) as error:
            self.lost(replica, now, f"died while it was {replica.state}: {_short(error)}", sink)
            return
        except RayTaskError as error:
            self._judge(replica, rank, own_error(error), now, sink)
            return
        if replica.state == PREPARING:
            replica.ready.add(rank)
            if len(replica.ready) == len(replica.actors):
                replica.state, replica.since = READY, now
            return
        place = replica.places[rank] = Place(**answer)
        self._members.add((place.host, place.pid))
        try:
            check_versions(versions(), place.versions, place.host)
        except JobError as error:
            self._refuse(replica, place, error, now, sink)
            return
        if self._job is not None and replica.joined:
            self._prepare(replica, now)

    def had(self, host: str, pid: int) -> bool:
        """Whether a process is one of the workers, or was."""
        return (host, pid) in self._members

    def did_unit(self, replica: Replica) -> None:
        """A worker has shown that its slot works."""
        self._slots[replica.slot].deaths = 0

    def let_go(self, replica: Replica, now: float) -> None:
        """Stop a worker whose node is going away, and ask for another one elsewhere."""
        if replica not in self._replicas:
            return
        self._drop(replica)
        self._slots[replica.slot].ask_at = now

    def lost(self, replica: Replica, now: float, why: str, sink: Sink) -> None:
        """Stop a worker that died or hangs, and ask for another one after a pause.

        Nothing happens when it was lost before. Raises `JobError` when too few slots are left
        whose workers live.
        """
        if replica not in self._replicas:
            return
        self._drop(replica)
        self._deaths += 1
        slot = self._slots[replica.slot]
        slot.deaths += 1
        if slot.deaths <= self._settings.max_failures:
            pause = _FIRST_PAUSE_S * 2 ** (slot.deaths - 1) if slot.deaths > 1 else 0.0
            slot.ask_at = now + min(pause, _LONGEST_PAUSE_S)
            return
        slot.given_up = True
        left = sum(not s.given_up for s in self._slots)
        sink.note(f"{slot.deaths} workers of one slot died in a row; {left} slots are left")
        if left < self._settings.min_workers:
            raise JobError(
                f"{self._deaths} workers died, {slot.deaths} of them in a row without a unit done "
                f"in between; the last one {why}. cluster.max_failures is "
                f"{self._settings.max_failures}, and {left} of {len(self._slots)} worker slots are "
                f"left where cluster.min_workers is {self._settings.min_workers}. Finished units "
                "are kept: look for too little memory or a failing node, then run the same "
                "command again."
            )

    def close(self) -> None:
        """Stop all workers."""
        for replica in list(self._replicas):
            self._drop(replica)

    def _ask(self, slot: int, now: float) -> None:
        actors, group = start_workers(self._settings, self._refused)
        replica = Replica(actors, slot, group, since=now)
        self._replicas.append(replica)
        self._answers |= {a.join.remote(): (replica, rank) for rank, a in enumerate(actors)}

    def _prepare(self, replica: Replica, now: float) -> None:
        # It may still be opening the stage before; that answer no longer matters.
        self._forget_answers(replica)
        replica.state, replica.since, replica.ready = PREPARING, now, set()
        meetings = [replica.places[rank].meeting for rank in range(len(replica.actors))]
        seated = seats(meetings) if len(meetings) > 1 else [None]
        for rank, (actor, seat) in enumerate(zip(replica.actors, seated, strict=True)):
            others = replica.actors[1:] if rank == 0 else []
            future = actor.prepare.remote(self._job, seat, others)
            self._answers[future] = replica, rank

    def _drop(self, replica: Replica) -> None:
        stop_workers(replica.actors, replica.group)
        self._replicas.remove(replica)
        self._forget_answers(replica)

    def _forget_answers(self, replica: Replica) -> None:
        self._answers = {f: r for f, r in self._answers.items() if r[0] is not replica}

    def _judge(self, replica: Replica, rank: int, cause: Exception, now: float, sink: Sink) -> None:
        """Try again after an error that may pass; use the node no more after any other."""
        place = replica.places.get(rank)
        if isinstance(cause, StoreError) or not isinstance(cause, BathyscopeError) or not place:
            self.lost(replica, now, f"failed while it was {replica.state}: {_short(cause)}", sink)
        else:
            self._refuse(replica, place, cause, now, sink)

    def _refuse(
        self, replica: Replica, place: Place, error: Exception, now: float, sink: Sink
    ) -> None:
        """Use a node no more; the work goes on while there are others."""
        self._refused.add(place.node)
        self._drop(replica)
        if not self._nodes_left():
            raise error
        sink.note(f"{place.host} is not used: {error}")
        self._slots[replica.slot].ask_at = now

    def _nodes_left(self) -> set[str]:
        need = resources_of_process(self._settings)
        return {
            str(node["NodeID"])
            for node in ray.nodes()
            if node["Alive"]
            and all(node["Resources"].get(kind, 0) >= amount for kind, amount in need.items())
        } - self._refused


def _short(error: Exception) -> str:
    """The first line of Ray's account, and the last one: what was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " … ".join(dict.fromkeys([*lines[:1], *lines[-1:]]))
