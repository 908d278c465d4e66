"""Ray on hosts that are network namespaces: nodes that are killed, cut off, and come back."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from net_nodes import Host
from ray_nodes import QUICK_HEALTH_CHECKS

PORT = 6379
_STORE_BYTES = 80 * 2**20
# With the health checks that nodes are started with.
_GIVEN_UP_S, _STALE_S = 3.0, 4.0


class RayHosts:
    """A Ray node on each host; the first one is the head."""

    def __init__(self, hosts: Sequence[Host], folder: Path, environment: Mapping[str, str]) -> None:
        self.hosts = list(hosts)
        self.address = f"{hosts[0].address}:{PORT}"
        self.starts = 0
        """Nodes that were started again."""
        self._folder, self._environment = folder, environment
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._away: dict[str, float] = {}
        self._cut: dict[str, float] = {}
        self._stale: dict[str, float] = {}
        self._start(self.hosts[0])
        self._wait_for_head()
        for host in self.hosts[1:]:
            self._start(host)

    def lose(self, host: Host, seconds: float) -> None:
        """Kill a whole node; after so many seconds `tend` starts it again."""
        self._away[host.name] = time.monotonic() + seconds
        host.kill()

    def cut(self, host: Host, seconds: float) -> None:
        """Cut a node off; after so many seconds `tend` plugs it in again.

        One that was away for so long that Ray gave it up is started anew a while later: until then
        what ran there goes on, and does not know that others have its work.
        """
        self._cut[host.name] = time.monotonic() + seconds
        if seconds > _GIVEN_UP_S:
            self._stale[host.name] = time.monotonic() + seconds + _STALE_S
        host.cut()

    def tend(self) -> None:
        """Start nodes again that ended, as an operator of a cluster does; at once, but for lost."""
        for host in self.hosts:
            if self._is_time(self._cut, host):
                host.mend()
            if self._is_time(self._stale, host):
                host.kill()
            node = self._nodes[host.name]
            if node.poll() is None or time.monotonic() < self._away.get(host.name, 0.0):
                continue
            host.kill()
            self.starts += 1
            self._start(host)

    def _is_time(self, moments: dict[str, float], host: Host) -> bool:
        if time.monotonic() < moments.get(host.name, math.inf):
            return False
        del moments[host.name]
        return True

    def _start(self, host: Host) -> None:
        head = host is self.hosts[0]
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        words += [f"--node-ip-address={host.address}", f"--object-store-memory={_STORE_BYTES}"]
        words += ["--num-cpus=1", "--num-gpus=0", "--disable-usage-stats"]
        if head:
            words += ["--head", f"--port={PORT}", "--include-dashboard=false"]
            words += [f"--temp-dir={host.disk}"]
            words += [f"--system-config={json.dumps(QUICK_HEALTH_CHECKS)}"]
        else:
            words += [f"--address={self.address}"]
        log = self._folder / f"{host.name}.log"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._nodes[host.name] = host.start(words, log, self._environment)

    def _wait_for_head(self) -> None:
        head = self.hosts[0]
        check = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
        end = time.monotonic() + 60
        while time.monotonic() < end and self._nodes[head.name].poll() is None:
            log = self._folder / "health.log"
            if head.start([*check, "--address", self.address], log, self._environment).wait() == 0:
                return
        said = (self._folder / f"{head.name}.log").read_text()
        raise RuntimeError(f"Ray's head did not start:\n{said}")
