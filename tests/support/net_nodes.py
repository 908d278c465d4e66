"""Network namespaces on one machine, each a host of its own that can be cut off.

Every host has a namespace, a name (uname) and an address on one bridge, on which this machine has
the first address. Processes are those of this machine, so they can be killed from here. It takes
root and `ip` of iproute2.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_ETC = Path("/etc/netns")
# Short: paths of sockets have 107 characters at most.
_DISKS = Path("/tmp")


def why_not() -> str | None:
    """Why there can be no namespaces here, or None where there can be."""
    if os.geteuid() != 0:
        return "network namespaces take the rights of root"
    for program in ("ip", "unshare", "hostname"):
        if shutil.which(program) is None:
            return f"there is no program {program!r} (Debian: iproute2, util-linux, hostname)"
    probe = f"probe-{os.getpid()}"
    try:
        _ip("netns", "add", probe)
        _ip("netns", "del", probe)
    except subprocess.CalledProcessError as error:
        return f"a network namespace cannot be made: {error.stderr.strip()}"
    return None


class Host:
    """A namespace with a name and an address."""

    def __init__(self, network: str, number: int, address: str, gateway: str) -> None:
        self.name, self.address = f"{network}-{number}", address
        self.disk = _DISKS / network / "disk"
        """A folder that is another one on each host; from here it is `own`."""
        self.own = _DISKS / network / self.name
        for folder in (self.disk, self.own):
            folder.mkdir(parents=True, exist_ok=True)
        self._cable = f"{network}v{number}"
        _ip("netns", "add", self.name)
        # `ip netns exec` puts these in the place of the machine's: names are looked up at once.
        files = _ETC / self.name
        files.mkdir(parents=True, exist_ok=True)
        names = f"127.0.0.1 localhost\n{address} {self.name}\n"
        (files / "hosts").write_text(names, encoding="utf-8")
        (files / "resolv.conf").write_text("", encoding="utf-8")
        inside = f"{network}i{number}"
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", inside)
        _ip("link", "set", inside, "netns", self.name)
        _ip("link", "set", self._cable, "master", network, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        _ip("-n", self.name, "address", "add", f"{address}/24", "dev", inside)
        _ip("-n", self.name, "link", "set", inside, "up")
        # Ray asks the kernel for a way out to learn its own address.
        _ip("-n", self.name, "route", "add", "default", "via", gateway)

    def start(
        self, words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program on this host; it has the host's name and its network."""
        # Each of these replaces itself by the next, so the process is the program's own.
        inside = ["ip", "netns", "exec", self.name, "unshare", "--uts"]
        # The namespace of mounts is one that `ip netns exec` makes.
        script = 'hostname "$0" && mount --bind "$1" "$2" && shift 2 && exec "$@"'
        named = ["sh", "-c", script, self.name, str(self.own), str(self.disk)]
        with log.open("ab") as out:
            return subprocess.Popen(
                [*inside, *named, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **(environment or {})},
                # Not the repository: what lies there would be imported.
                cwd="/",
            )

    def processes(self) -> list[psutil.Process]:
        """What runs on this host."""
        found = []
        for pid in _ip("netns", "pids", self.name).split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def workers(self) -> list[int]:
        """Our workers on this host, if Ray runs there."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith("ray::Worker"):
                    found.append(process.pid)
        return found

    def kill(self) -> None:
        """SIGKILL everything on this host, as if its power went."""
        end = time.monotonic() + 20
        while left := self.processes():
            for process in left:
                kill(process.pid)
            if time.monotonic() > end:
                raise RuntimeError(f"processes of {self.name} cannot be killed: {left}")
            time.sleep(0.05)

    def cut(self) -> None:
        """Pull the cable: packets are lost, and nobody is told."""
        _ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        """Plug the cable in again."""
        _ip("link", "set", self._cable, "up")


@contextmanager
def network(name: str, hosts: int, subnet: str) -> Iterator[tuple[str, list[Host]]]:
    """Hosts on a bridge of this name; this machine's address there, and the hosts.

    `subnet` is the first three numbers of the addresses, such as 10.231.77. What a run that was
    killed left under the name is removed first.
    """
    assert len(name) <= 10, "names of interfaces have 15 characters at most"
    remove(name)
    try:
        _ip("link", "add", name, "type", "bridge")
        _ip("address", "add", f"{subnet}.1/24", "dev", name)
        _ip("link", "set", name, "up")
        yield (
            f"{subnet}.1",
            [Host(name, i, f"{subnet}.{i + 2}", f"{subnet}.1") for i in range(hosts)],
        )
    finally:
        remove(name)


def remove(name: str) -> None:
    """Kill all processes on hosts of a network, and take the network away."""
    for line in _ip("netns", "list").splitlines():
        host = line.split()[0] if line.split() else ""
        if host.startswith(f"{name}-"):
            left = Host.__new__(Host)
            left.name = host
            left.kill()
            _ip("netns", "del", host)
            shutil.rmtree(_ETC / host, ignore_errors=True)
    shutil.rmtree(_DISKS / name, ignore_errors=True)
    found = json.loads(_ip("-j", "link", "show") or "[]")
    for link in found:
        if link["ifname"] == name or link["ifname"].startswith(f"{name}v"):
            # The end of a cable may be gone already, with the namespace of its other end.
            with suppress(subprocess.CalledProcessError):
                _ip("link", "del", link["ifname"])


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout
