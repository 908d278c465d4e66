"""Drives the units of one stage over the workers of a cluster: hand out, collect, look after."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from bathyscope.config import ClusterConfig, Config
from bathyscope.errors import LeaseLost, ReceiptConflict, StoreError
from bathyscope.jobs.audit import audited
from bathyscope.jobs.cluster_fleet import Fleet, Replica, own_error
from bathyscope.jobs.cluster_ray import draining_nodes
from bathyscope.jobs.packing import Packing
from bathyscope.jobs.schedule import Limits, Schedule
from bathyscope.jobs.sink import Sink
from bathyscope.jobs.stopping import StopRequest, stopped
from bathyscope.runs.work import Begun
from bathyscope.stages.stage import Stage
from bathyscope.stores.leases import Leases

_POLL_S = 0.5
_LOOK_S = 1.0
_ASKED_AT_ONCE = 100


class UnitLoop:
    """The units of one stage that are left, and who does which."""

    def __init__(
        self, config: Config, stage: Stage, begun: Begun, fleet: Fleet, sink: Sink
    ) -> None:
        self._settings: ClusterConfig = config.cluster
        self._begun = begun
        self._fleet = fleet
        self._sink = sink
        self._schedule = Schedule(
            begun.remaining.indices,
            limits(config.cluster),
            audited(stage, begun, config.cluster.audit),
        )
        self._running: dict[Any, Replica] = {}
        self._before = begun.work.plan.num_units - len(begun.remaining)
        self._looked_at = 0.0

    def run(self) -> None:
        """Until every unit is done.

        Raises `JobError` for too many failures, `StopRequested` after a signal, and what a unit
        raises that would raise it again.
        """
        schedule = self._schedule
        try:
            with Packing(self._begun) as packing, StopRequest() as stop:
                while not schedule.finished:
                    self._fleet.tick(time.monotonic(), self._sink)
                    if stop.asked:
                        self._drain(stop)
                    else:
                        self._hand_out()
                    for future in self._answered():
                        if future in self._running:
                            if self._collect(future):
                                packing.unit_done()
                                self._sink.progress(self._done, "")
                        else:
                            self._fleet.heard(future, time.monotonic(), self._sink)
                    self._look()
        finally:
            self._abandon()

    def unit_of(self, replica: Replica) -> int | None:
        """The unit that a worker has now."""
        return self._schedule.unit_of(replica)

    @property
    def _done(self) -> int:
        """Units of the whole plan that are done."""
        return self._before + self._schedule.done

    def _hand_out(self) -> None:
        for replica in self._fleet.ready:
            if self._schedule.unit_of(replica) is not None:
                continue
            task = self._schedule.next(replica, time.monotonic())
            if task is None:
                continue
            if any(self._schedule.unit_of(r) == task.unit for r in self._running.values()):
                self._sink.note(f"unit {task.unit} takes very long; another worker does it too")
            self._running[replica.run(task)] = replica

    def _answered(self) -> list[Any]:
        """Everything that is ready, or nothing after a moment."""
        waiting = [*self._running, *self._fleet.answers]
        if not waiting:
            time.sleep(_POLL_S)
            return []
        # Units that failed wait for their turn, and signals are looked for: never for long.
        first, _ = ray.wait(waiting, num_returns=1, timeout=_POLL_S)
        if not first:
            return []
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return list(ready)

    def _collect(self, future: Any) -> bool:
        """Note what became of a unit; whether it is done now and was not before."""
        replica, now = self._running.pop(future), time.monotonic()
        unit = self._schedule.unit_of(replica)
        try:
            did: bool = ray.get(future)
        except (ActorDiedError, ActorUnavailableError):
            self._sink.note(f"a worker died on unit {unit}; another one takes it over")
            self._schedule.failed(replica, now, "its worker died", gone=True)
            self._fleet.lost(replica, now, f"died on unit {unit}", self._sink)
            return False
        except RayTaskError as error:
            self._judge(own_error(error), replica)
            return False
        if not did:
            self._sink.note(f"unit {unit} is held by another worker; waiting for it")
            self._schedule.held(replica, now)
            return False
        self._fleet.did_unit(replica)
        return self._schedule.succeeded(replica, now)

    def _judge(self, cause: Exception, replica: Replica) -> None:
        """Go on after an error of a unit that may pass; raise any other."""
        unit = self._schedule.unit_of(replica)
        if isinstance(cause, LeaseLost):
            self._schedule.superseded(replica)
        elif isinstance(cause, StoreError) and not isinstance(cause, ReceiptConflict):
            self._schedule.failed(replica, time.monotonic(), str(cause))
            self._sink.note(f"unit {unit} is tried again: {cause}")
        else:
            raise cause

    def _look(self) -> None:
        """Every second: who hangs, which nodes are going, how far the units are."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        for future, replica in list(self._running.items()):
            if self._schedule.hopeless(replica, now):
                unit = self._schedule.unit_of(replica)
                del self._running[future]
                self._schedule.failed(replica, now, "its worker hung", gone=True)
                self._sink.note(f"a worker hangs on unit {unit}; a new one takes its place")
                self._fleet.lost(replica, now, f"hung on unit {unit}", self._sink)
        self._leave_draining_nodes(now)
        self._tell()

    def _leave_draining_nodes(self, now: float) -> None:
        """Let units end that will; take the others away before their node is."""
        draining = draining_nodes()
        for replica in self._fleet.replicas if draining else ():
            if replica.place is None or replica.place.node not in draining:
                continue
            replica.leaving = True
            left = draining[replica.place.node]
            future = next((f for f, r in self._running.items() if r is replica), None)
            if future is not None and not self._too_late(replica, left, now):
                continue
            if future is not None:
                unit = self._schedule.unit_of(replica)
                del self._running[future]
                self._schedule.taken_away(replica)
                self._sink.note(f"{replica.host} is going away before unit {unit} is done")
            else:
                self._sink.note(f"{replica.host} is going away; its worker is let go")
                self._schedule.forget(replica)
            self._fleet.let_go(replica, now)

    def _too_late(self, replica: Replica, seconds: float | None, now: float) -> bool:
        needed = self._schedule.left_s(replica, now)
        return seconds is not None and (needed or 0.0) > seconds

    def _tell(self) -> None:
        """Ask some of the workers how far they are, and pass it on."""
        some = list(self._running.values())[:_ASKED_AT_ONCE]
        asked = [replica.actor.progress.remote() for replica in some]
        answered: list[Any] = []
        if asked:
            answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_POLL_S)
        told = []
        for future in answered:
            try:
                told.append(ray.get(future))
            except (ActorDiedError, ActorUnavailableError):
                continue
        if told:
            under_way = sum(fraction for fraction, _ in told) / len(told) * len(self._running)
            self._sink.progress(self._done + under_way, told[0][1])

    def _drain(self, stop: StopRequest) -> None:
        """After a signal: wait for units under way, no longer than allowed, and stop."""
        if self._running and stop.seconds < self._settings.drain_s:
            return
        raise stopped(stop, self._begun, self._done)

    def _abandon(self) -> None:
        """Stop workers that still have units, and let these go, so that any host may resume."""
        now = time.monotonic()
        for replica in self._running.values():
            unit = self._schedule.unit_of(replica)
            self._fleet.let_go(replica, now)
            if unit is not None:
                # Without this a run on another host would wait for the lease to end by itself.
                with suppress(StoreError):
                    self._release(unit, replica)
        self._running = {}

    def _release(self, unit: int, replica: Replica) -> None:
        leases = Leases(self._begun.objects, self._begun.work.segment.name)
        lease, place = leases.current(unit), replica.place
        if lease is None or place is None:
            return
        if (lease.holder.host, lease.holder.pid) != (place.host, place.pid):
            return
        taken = leases.take_over(unit)
        if taken is not None:
            leases.give_back(taken)


def limits(settings: ClusterConfig) -> Limits:
    """The patience that the configuration asks for."""
    return Limits(
        unit_failures=settings.max_failures,
        straggler_factor=settings.straggler_factor,
        straggler_least_s=settings.straggler_least_s,
    )
