"""Drives the units of one stage over the workers of a cluster: hand out, collect, look after."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from bathyscope.config import ClusterConfig, Config
from bathyscope.errors import LeaseLost, ReceiptConflict, ReplicaLost, StoreError
from bathyscope.jobs.audit import audited
from bathyscope.jobs.cluster_fleet import Fleet
from bathyscope.jobs.cluster_metrics import DriverMeter
from bathyscope.jobs.cluster_ray import draining_nodes, own_error
from bathyscope.jobs.cluster_replica import Lane, Replica
from bathyscope.jobs.cluster_worker import Did
from bathyscope.jobs.packing import Packing
from bathyscope.jobs.schedule import Limits, Schedule, Task
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
        self,
        config: Config,
        stage: Stage,
        begun: Begun,
        fleet: Fleet,
        sink: Sink,
        meter: DriverMeter,
    ) -> None:
        self._settings: ClusterConfig = config.cluster
        self._begun = begun
        self._fleet = fleet
        self._sink = sink
        self._meter = meter
        self._schedule = Schedule(
            begun.remaining.indices,
            limits(config.cluster),
            audited(stage, begun, config.cluster.audit),
            owner=lambda lane: lane.replica,
        )
        self._lanes: int = getattr(stage, "LANES", 1)
        self._running: dict[Any, list[Lane]] = {}
        self._before = begun.work.plan.num_units - len(begun.remaining)
        self._looked_at = 0.0

    def run(self) -> None:
        """Until every unit is done.

        Raises `JobError` for too many failures, `StopRequested` after a signal, and what a unit
        raises that would raise it again.
        """
        schedule = self._schedule
        self._meter.units(self._done)
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
                            for _ in range(self._collect(future)):
                                packing.unit_done()
                                self._sink.progress(self._done, "")
                        else:
                            self._fleet.heard(future, time.monotonic(), self._sink)
                    self._look()
        finally:
            self._meter.units(self._done)
            self._abandon()

    def units_of(self, replica: Replica) -> list[int]:
        """The units that a worker has now."""
        return [
            unit
            for lanes in self._running.values()
            if lanes[0].replica is replica
            for unit in self._units(lanes)
        ]

    @property
    def _done(self) -> int:
        """Units of the whole plan that are done."""
        return self._before + self._schedule.done

    def _hand_out(self) -> None:
        ready = self._fleet.ready
        for number in range(self._lanes):
            # Near the end a second unit of one worker would keep it from an idle one.
            if number and self._schedule.unstarted < len(ready):
                return
            for replica in ready:
                self._give(replica, number, self._schedule.together(len(ready)))

    def _give(self, replica: Replica, call: int, most: int) -> None:
        """Have a worker do the next units, unless it does others in that call."""
        lanes = [Lane(replica, call, place) for place in range(most)]
        if self._schedule.unit_of(lanes[0]) is not None:
            return
        tasks: list[Task] = []
        for lane in lanes:
            task = self._schedule.next(lane, time.monotonic())
            if task is None:
                break
            tasks.append(task)
            if task.take_over and any(task.unit in self._units(r) for r in self._running.values()):
                self._sink.note(f"unit {task.unit} takes very long; another worker does it too")
                self._meter.retried(1)
        if tasks:
            self._running[replica.run(tasks)] = lanes[: len(tasks)]

    def _units(self, lanes: Sequence[Lane]) -> list[int]:
        return [u for lane in lanes if (u := self._schedule.unit_of(lane)) is not None]

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

    def _collect(self, future: Any) -> int:
        """Note what became of a call's units; how many are done now and were not before."""
        lanes, now = self._running.pop(future), time.monotonic()
        try:
            answers: list[Did] = ray.get(future)
        except (ActorDiedError, ActorUnavailableError):
            which = _named(self._units(lanes))
            self._sink.note(f"a worker died on {which}; another one takes it over")
            self._lose(lanes, now, "died")
            return 0
        except RayTaskError as error:
            self._judge(own_error(error), lanes)
            return 0
        self._fleet.did_unit(lanes[0].replica)
        for lane in lanes[len(answers) :]:
            self._schedule.superseded(lane)
        return sum(self._note(lane, did, now) for lane, did in zip(lanes, answers, strict=False))

    def _note(self, lane: Lane, did: Did, now: float) -> bool:
        """Note what became of a unit; whether it is done now and was not before."""
        if did.done:
            first = self._schedule.succeeded(lane, now, did.seconds)
            # Another driver of the same run counts what its own workers did.
            if first and did.stored and self._fleet.had(did.stored.host, did.stored.pid):
                self._meter.stored(did.stored)
            return first
        unit = self._schedule.unit_of(lane)
        self._sink.note(f"unit {unit} is held by another worker; waiting for it")
        self._schedule.held(lane, now)
        return False

    def _lose(self, lanes: Sequence[Lane], now: float, what: str) -> None:
        """Give up a worker, and what it had in one of its calls."""
        which = _named(self._units(lanes))
        self._meter.retried(len(lanes))
        for lane in lanes:
            self._schedule.failed(lane, now, f"its worker {what}", gone=True)
        self._fleet.lost(lanes[0].replica, now, f"{what} on {which}", self._sink)

    def _judge(self, cause: Exception, lanes: Sequence[Lane]) -> None:
        """Go on after an error of a call's first unit that may pass; raise any other."""
        lane, *others = lanes
        for other in others:
            self._schedule.superseded(other)
        unit = self._schedule.unit_of(lane)
        if isinstance(cause, ReplicaLost):
            self._sink.note(f"a worker is replaced: {cause}")
            self._lose([lane], time.monotonic(), "lost one of its processes")
        elif isinstance(cause, LeaseLost):
            self._schedule.superseded(lane)
        elif isinstance(cause, StoreError) and not isinstance(cause, ReceiptConflict):
            self._meter.retried(1)
            self._schedule.failed(lane, time.monotonic(), str(cause))
            self._sink.note(f"unit {unit} is tried again: {cause}")
        else:
            raise cause

    def _look(self) -> None:
        """Every second: who hangs, which nodes are going, how far the units are."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        for future, lanes in list(self._running.items()):
            if self._schedule.hopeless(lanes[0], now):
                del self._running[future]
                which = _named(self._units(lanes))
                self._sink.note(f"a worker hangs on {which}; a new one takes its place")
                self._lose(lanes, now, "hung")
        self._leave_draining_nodes(now)
        self._tell()

    def _leave_draining_nodes(self, now: float) -> None:
        """Let units end that will; take the others away before their node is."""
        draining = draining_nodes()
        for replica in self._fleet.replicas if draining else ():
            going = [draining[node] for node in replica.nodes if node in draining]
            if not going:
                continue
            replica.leaving = True
            left = min((s for s in going if s is not None), default=None)
            calls = {f: lanes for f, lanes in self._running.items() if lanes[0].replica is replica}
            # The last one of a call began with the others, but is done after them.
            if calls and not any(self._too_late(lanes[0], left, now) for lanes in calls.values()):
                continue
            for future, lanes in calls.items():
                which = _named(self._units(lanes))
                del self._running[future]
                for lane in lanes:
                    self._schedule.taken_away(lane)
                self._meter.retried(len(lanes))
                self._sink.note(f"{replica.host} is going away before {which} is done")
            if not calls:
                self._sink.note(f"{replica.host} is going away; its worker is let go")
                self._schedule.forget(Lane(replica, 0))
            self._fleet.let_go(replica, now)

    def _too_late(self, lane: Lane, seconds: float | None, now: float) -> bool:
        needed = self._schedule.left_s(lane, now)
        return seconds is not None and (needed or 0.0) > seconds

    def _tell(self) -> None:
        """Ask some of the workers how far they are, and pass it on."""
        busy = list(dict.fromkeys(lanes[0].replica for lanes in self._running.values()))
        asked = [replica.actor.progress.remote() for replica in busy[:_ASKED_AT_ONCE]]
        answered: list[Any] = []
        if asked:
            answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_POLL_S)
        told = []
        for future in answered:
            try:
                told.append(ray.get(future))
            except (ActorDiedError, ActorUnavailableError):
                continue
        under_way = 0.0
        if told:
            under_way = sum(fraction for fraction, _ in told) / len(told) * len(busy)
            self._sink.progress(self._done + under_way, told[0][1])
        self._meter.units(self._done + under_way)

    def _drain(self, stop: StopRequest) -> None:
        """After a signal: wait for units under way, no longer than allowed, and stop."""
        if self._running and stop.seconds < self._settings.drain_s:
            return
        raise stopped(stop, self._begun, self._done)

    def _abandon(self) -> None:
        """Stop workers that still have units, and let these go, so that any host may resume."""
        now = time.monotonic()
        for lanes in self._running.values():
            self._fleet.let_go(lanes[0].replica, now)
        for lanes in self._running.values():
            for unit in self._units(lanes):
                # Without this a run on another host would wait for the lease to end by itself.
                with suppress(StoreError):
                    self._release(unit, lanes[0].replica)
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


def _named(units: Sequence[int]) -> str:
    return f"unit {', '.join(map(str, units))}"


def limits(settings: ClusterConfig) -> Limits:
    """The patience that the configuration asks for."""
    return Limits(
        unit_failures=settings.max_failures,
        straggler_factor=settings.straggler_factor,
        straggler_least_s=settings.straggler_least_s,
    )
