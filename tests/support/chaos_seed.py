"""One seed of the chaos test: a night under way, and the faults that strike it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos_schedule import IN_FLIGHT, Fault
from chaos_store import ChaosStore
from net_nodes import Host, kill
from ray_hosts import RayHosts

_AGAIN_S = 1.0
_MOST_COMMANDS = 20
_HELD_S = 25.0

Until = Callable[[Callable[[], bool]], None]
"""Looks after everything until something is so, or the night is over."""


class NightUnderWay:
    """The command of a night on the head's host, given again until it ends well."""

    def __init__(
        self, nodes: RayHosts, words: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.nodes = nodes
        self.commands = 0
        """How often the command was given."""
        self._words, self._log, self._environment = words, log, environment
        self._again = 0.0
        self._driver: subprocess.Popen[bytes] | None = None
        self.codes: list[int] = []
        """Exit codes; -9 of a driver that was killed."""
        self.ended = False

    def look(self) -> None:
        """Start the command when it is time, note how it ended, and tend the nodes."""
        self.nodes.tend()
        if self.ended:
            return
        if self._driver is None:
            if time.monotonic() >= self._again:
                self.commands += 1
                head = self.nodes.hosts[0]
                self._driver = head.start(self._words, self._log, self._environment)
            return
        code = self._driver.poll()
        if code is not None:
            self._driver = None
            self._again = time.monotonic() + _AGAIN_S
            self.codes.append(code)
            self.ended = code == 0 or self.commands >= _MOST_COMMANDS

    @property
    def well(self) -> bool:
        """Whether the last command ended well."""
        return self.ended and self.codes[-1] == 0

    def kill_driver(self, away_s: float) -> bool:
        """SIGKILL; the command is given again after some seconds. False when there is none."""
        if self._driver is None:
            return False
        self._driver.kill()
        self.codes.append(self._driver.wait())
        self._driver = None
        self._again = time.monotonic() + away_s
        return True

    def close(self) -> None:
        """End a driver that is left."""
        if self._driver is not None:
            self._driver.kill()
            self._driver.wait()


class Striker:
    """Does what a schedule says, each fault at its time."""

    def __init__(self, night: NightUnderWay, store: ChaosStore, units: int) -> None:
        self.struck: list[dict[str, Any]] = []
        """What each fault met, in order."""
        self._night, self._nodes, self._store, self._units = night, night.nodes, store, units

    def strike_all(self, faults: Sequence[Fault], until: Until) -> None:
        """Wait for the time of each with `until`, and strike."""
        for fault in faults:
            due = fault.after * self._units
            until(lambda due=due: len(self._store.receipts) >= due)  # type: ignore[misc]
            at = time.monotonic() + fault.then_s
            until(lambda at=at: time.monotonic() >= at)  # type: ignore[misc]
            if self._night.ended:
                self.struck.append({"kind": fault.kind, "hit": False})
            elif fault.kind in IN_FLIGHT:
                self.struck.append(self._in_write(fault, until))
            else:
                done = len(self._store.receipts)
                hit = self._strike(fault, self._victim(fault))
                self.struck.append({"kind": fault.kind, "hit": hit, "units_done": done})

    def _victim(self, fault: Fault) -> Host:
        """The head is never lost: with it goes Ray itself, and nobody could go on."""
        lost = self._nodes.hosts[1:]
        return lost[fault.node % len(lost)]

    def _strike(self, fault: Fault, host: Host) -> bool:
        kind = fault.kind.removesuffix("_in_write")
        if kind == "kill_driver":
            return self._night.kill_driver(fault.lasts_s)
        if kind == "kill_node":
            self._nodes.lose(host, fault.lasts_s)
        elif kind == "cut_node":
            self._nodes.cut(host, fault.lasts_s)
        elif kind == "kill_worker":
            workers = host.workers()
            for pid in workers:
                kill(pid)
            return bool(workers)
        elif kind in ("store_slow", "store_unavailable"):
            self._store.hinder(kind.removeprefix("store_"), fault.lasts_s)
        else:
            self._store.fail(kind.removeprefix("store_"), fault.requests)
        return True

    def _in_write(self, fault: Fault, until: Until) -> dict[str, Any]:
        """Strike the node whose put of a shard is held open at this moment."""
        hosts = {host.address: host for host in self._nodes.hosts[1:]}
        held = self._store.hold(set(hosts), fault.lands)
        end = time.monotonic() + _HELD_S
        until(lambda: held.came.is_set() or time.monotonic() > end)
        try:
            if not held.came.is_set():
                return {"kind": fault.kind, "hit": False}
            host = hosts[held.address]
            done = len(self._store.receipts)
            hit = self._strike(fault, host)
            return {
                "kind": fault.kind, "hit": hit, "units_done": done, "in_flight": held.key,
                "host": host.name, "lands": fault.lands,
            }  # fmt: skip
        finally:
            held.goes_on.set()
            self._store.forget(held)
