"""Faults of a cluster: what a seed does to it, and the processes that it is done to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray_nodes
from ray.cluster_utils import Cluster as RayNodes

KINDS = ("kill_worker", "kill_worker_while_it_writes", "kill_raylet", "kill_driver", "stop_worker")
WORKERS = 3
LANES = 2


@dataclass(frozen=True)
class Fault:
    """One fault: what, to whom, and when."""

    kind: str
    after_units: int
    """When so many units are done,"""
    then_s: float
    """and so many seconds later."""
    victim: int
    """Which of the nodes."""
    lasts_s: float
    """For how long a stopped worker stays stopped."""

    @property
    def disturbed(self) -> int:
        """Units that may have to be done again because of it, at most."""
        return LANES * (WORKERS if self.kind == "kill_driver" else 1)


def schedule_of(seed: int, units: int) -> list[Fault]:
    """Three faults of a seed. Over five seeds each kind comes first once."""
    rng = np.random.default_rng(seed)
    kinds = [KINDS[seed % len(KINDS)], *rng.choice(KINDS, size=2)]
    after = sorted(int(n) for n in rng.integers(1, units - 4, size=3))
    return [
        Fault(
            str(kind),
            units_done,
            round(float(rng.uniform(0, 1.0)), 3),
            int(rng.integers(WORKERS)),
            round(float(rng.uniform(2, 20)), 1),
        )
        for kind, units_done in zip(kinds, after, strict=True)
    ]


class Stage:
    """The processes that a seed works on: nodes, and a driver that is started again."""

    def __init__(self, nodes: RayNodes, members: list[Any], settings: Path, log: Path) -> None:
        self.nodes = nodes
        self.members = members
        self.cut_off: list[str] = []
        """Temporary files of shards whose writer was killed."""
        self._settings = settings
        self._log = log
        self._stopped: list[tuple[float, int]] = []
        self.driver = self._start()

    def strike(self, fault: Fault, shards: Path) -> bool:
        """Do it; False when there was no victim."""
        if fault.kind == "kill_driver":
            self.driver.kill()
            self.driver.wait()
            self.driver = self._start()
            return True
        node = self.members[fault.victim]
        if fault.kind == "kill_raylet":
            os.kill(ray_nodes.raylet_of(node), signal.SIGKILL)
            self.nodes.remove_node(node, allow_graceful=False)
            self.members[fault.victim] = ray_nodes.add_node(self.nodes, gpus=1)
            return True
        victims = wait_for(lambda: ray_nodes.workers_of(node), 20.0)
        if not victims:
            return False
        if fault.kind == "stop_worker":
            os.kill(victims[0], signal.SIGSTOP)
            self._stopped.append((time.monotonic() + fault.lasts_s, victims[0]))
            return True
        writing = []
        if fault.kind == "kill_worker_while_it_writes":
            writing = _wait_for_write(victims[0], shards)
        _kill(victims[0])
        wait_for(lambda: not psutil.pid_exists(victims[0]), 10.0)
        # A write that was over takes its temporary name away; one that was cut off leaves it.
        self.cut_off += [file for file in writing if Path(file).exists()]
        return True

    def look(self) -> None:
        """Wake workers whose time is over."""
        now = time.monotonic()
        for due in [one for one in self._stopped if one[0] <= now]:
            self._stopped.remove(due)
            _kill(due[1], signal.SIGCONT)

    def close(self) -> None:
        """Wake everybody, and end the driver if it still runs."""
        for _, pid in self._stopped:
            _kill(pid, signal.SIGCONT)
        if self.driver.poll() is None:
            self.driver.kill()
        self.driver.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "fault_driver.py"), self._settings],
                stdout=log,
                stderr=log,
            )


def wait_for(look: Callable[[], Any], seconds: float) -> Any:
    """What `look` gives as soon as it gives something, or after the time."""
    end = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def as_json(faults: list[Fault]) -> list[dict[str, Any]]:
    """The schedule as it is saved, to be replayed."""
    return [asdict(fault) for fault in faults]


def _wait_for_write(pid: int, shards: Path) -> list[str]:
    """Wait until this process has a shard open under its temporary name; which one it is."""
    end = time.monotonic() + 30
    folder = Path(f"/proc/{pid}/fd")
    while time.monotonic() < end:
        try:
            open_files = [os.readlink(link) for link in folder.iterdir()]
        except OSError:
            open_files = []
        writing = [f for f in open_files if f.startswith(str(shards)) and "/c." in f and "#" in f]
        if writing:
            return writing
        time.sleep(0.0005)
    return []


def _kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
