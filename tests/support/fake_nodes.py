"""Two machines on this machine: each has processes, a network, a /tmp and a host name of its own.

They are Linux namespaces, so `ray stop` in one of them sees no Ray but its own, and two raylets do
not meet in one folder. Everything else, the checkout and its environment too, is shared as a file
system of a cluster is.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

NETWORK = "10.77.0"
_ALONE = (
    # A test that is ended from outside leaves no nodes behind.
    "setpriv", "--pdeathsig", "KILL",
    "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts",
)  # fmt: skip


def why_not() -> str | None:
    """Why this machine has no fake nodes; None where it has."""
    try:
        done = subprocess.run(
            [*_ALONE, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    return None if done.returncode == 0 else f"no network namespaces here: {done.stderr.strip()}"


class FakeNodes:
    """One or two nodes, `node1` and `node2`, for as long as a `with` block lasts.

    `folder` keeps what belongs to them. It and `shared`, which holds it, are seen by both under
    their own paths, though each node has another /tmp.
    """

    def __init__(self, folder: Path, *, count: int = 2, shared: Path | None = None) -> None:
        self.folder = folder
        self.shared = shared or folder
        self.names = [f"node{i + 1}" for i in range(count)]
        self.pids: dict[str, int] = {}
        self._holders: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> FakeNodes:
        try:
            for number, name in enumerate(self.names, start=1):
                self._start(name, number)
            self._lay_cable()
            for number, name in enumerate(self.names, start=1):
                for words in (
                    f"address add {NETWORK}.{number}/24 dev eth0",
                    "link set eth0 up",
                    # Ray asks for the way to a public address, to learn its own.
                    f"route add default via {NETWORK}.{number} dev eth0",
                ):
                    self.check(name, "ip", *words.split())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End both nodes and every process in them."""
        for holder in self._holders:
            # Its child is the first process of the node: the kernel ends all others with it.
            holder.kill()
            holder.wait()
        self._holders = []

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """The words that run `argv` on a node."""
        return [*entering(self.pids[name]), *argv]

    def check(self, name: str, *argv: str, **options: Any) -> str:
        """What a command on a node prints; it must succeed."""
        words = self.command(name, argv)
        done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, f"{name}: {' '.join(argv)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _lay_cable(self) -> None:
        """A cable from node1 to node2, or to itself where it is alone."""
        # In the network of node1 alone: its processes do not see the pid of the other node.
        enter = ["nsenter", f"--target={self.pids['node1']}", "--net"]
        cable = [*enter, "ip", "link", "add", "eth0", "type", "veth", "peer", "name"]
        if len(self.names) == 2:
            subprocess.run([*cable, "eth0", "netns", str(self.pids["node2"])], check=True)
        else:
            subprocess.run([*cable, "eth1"], check=True)
            subprocess.run([*enter, "ip", "link", "set", "eth1", "up"], check=True)

    def _start(self, name: str, number: int) -> None:
        self.folder.mkdir(exist_ok=True)
        private = self.folder / f"tmp-of-{name}"
        private.mkdir(mode=0o1777)
        hosts = self.folder / "hosts"
        lines = [f"{NETWORK}.{i + 1} {other}" for i, other in enumerate(self.names)]
        hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]), encoding="utf-8")
        script = f"""
            set -e
            hostname {name}
            mount --bind {hosts} /etc/hosts
            case {self.shared} in /tmp/*)
                mkdir -p {private}{str(self.shared).removeprefix("/tmp")}
                mount --bind {self.shared} {private}{str(self.shared).removeprefix("/tmp")}
            esac
            mount --rbind {private} /tmp
            ip link set lo up
            touch {self.folder}/{name}-is-up
            # Its orphans are buried, as an init does: `ray stop` waits for processes to be gone.
            while :; do sleep 60 & wait; done
        """
        self._holders.append(subprocess.Popen([*_ALONE, "bash", "-c", script]))
        self.pids[name] = _child_of(self._holders[-1], self.folder / f"{name}-is-up")


def entering(pid: int) -> list[str]:
    """The words before a command that is to run on the node of a process."""
    return [
        "nsenter",
        f"--target={pid}",
        "--net",
        "--pid",
        "--mount",
        "--uts",
        "--wd=" + os.getcwd(),
    ]


def _child_of(holder: subprocess.Popen[bytes], mark: Path) -> int:
    """The node's first process, once all is mounted."""
    end = time.monotonic() + 20
    while time.monotonic() < end and holder.poll() is None:
        if mark.exists():
            return psutil.Process(holder.pid).children()[0].pid
        time.sleep(0.02)
    raise AssertionError(f"a fake node did not start, exit code {holder.poll()}")
