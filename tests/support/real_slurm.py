"""Debian's Slurm over the nodes of `fake_nodes`: munged and slurmd on each, slurmctld on the first.

`deploy/get-check-tools.sh` unpacks it; nothing is installed. All files lie in the nodes' folder.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fake_nodes import FakeNodes

UNPACKED = Path(sys.executable).parent.parent / "deploy-tools" / "usr"
_LIBRARIES = UNPACKED / "lib" / f"{platform.machine()}-linux-gnu"
_PLUGINS = _LIBRARIES / "slurm-wlm"
_CONFIG = """
ClusterName=fake
SlurmctldHost=node1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=/tmp/munge/socket
CredType=cred/munge
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile=/tmp/slurmctld.pid
SlurmdPidFile=/tmp/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MailProg=/bin/true
ReturnToService=2
KillWait=10
NodeName=node[1-2] CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def is_unpacked() -> bool:
    """Whether `deploy/get-check-tools.sh` has brought Slurm."""
    return (UNPACKED / "sbin" / "slurmctld-wlm").exists()


class RealSlurm:
    """A Slurm of two nodes. It ends with its nodes."""

    def __init__(self, nodes: FakeNodes, programs: Mapping[str, Sequence[str]]) -> None:
        self._nodes = nodes
        self._folder = nodes.folder / "slurm"
        (self._folder / "state").mkdir(parents=True)
        key = self._folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        config = self._folder / "slurm.conf"
        config.write_text(_CONFIG.format(plugins=_PLUGINS, folder=self._folder), encoding="utf-8")
        binaries = self._folder / "bin"
        binaries.mkdir()
        for name, argv in programs.items():
            path = binaries / name
            path.write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n', encoding="utf-8")
            path.chmod(0o755)
        self.environment = {
            **os.environ,
            "LD_LIBRARY_PATH": f"{_LIBRARIES}:{_PLUGINS}",
            "SLURM_CONF": str(config),
            "PATH": f"{binaries}:{UNPACKED / 'bin'}:{UNPACKED / 'sbin'}:{os.environ['PATH']}",
        }
        for name in nodes.names:
            nodes.check(name, "mkdir", "-m", "755", "/tmp/munge", "/tmp/slurmd")
            self._daemon(
                name, "munged", "--force", "--foreground", "--socket=/tmp/munge/socket",
                f"--key-file={key}", "--pid-file=/tmp/munge/pid", "--seed-file=/tmp/munge/seed",
                f"--log-file={self._folder}/munged-{name}.log",
            )  # fmt: skip
        self._daemon("node1", "slurmctld-wlm", "-D")
        stepd = str(UNPACKED / "sbin" / "slurmstepd-wlm")
        for name in nodes.names:
            self._daemon(name, "slurmd-wlm", "-D", "-N", name, "-d", stepd)
        self._wait_until_idle()

    def call(self, *argv: str, **options: str) -> str:
        """What a command of Slurm's prints on the first node; `options` are more variables."""
        environment = {**self.environment, **options}
        return self._nodes.check("node1", *argv, env=environment)

    def field(self, job: str, name: str) -> str:
        """A field of `scontrol show job`, "" where there is none."""
        match = re.search(rf"\b{name}=(\S*)", self.call("scontrol", "show", "job", job))
        return match[1] if match else ""

    def logs(self) -> str:
        """The ends of all logs of Slurm's own."""
        found = sorted(self._folder.glob("*.log"))
        return "\n".join(f"{p.name}:\n{p.read_text()[-2000:]}" for p in found)

    def _daemon(self, name: str, *argv: str) -> None:
        out = (self._folder / f"{argv[0]}-{name}.out").open("wb")
        with out:
            subprocess.Popen(
                self._nodes.command(name, argv), env=self.environment, stdout=out, stderr=out
            )

    def _wait_until_idle(self) -> None:
        end = time.monotonic() + 60
        said = ""
        while time.monotonic() < end:
            time.sleep(0.5)
            argv = self._nodes.command("node1", ["sinfo", "--noheader", "--format=%T %D"])
            done = subprocess.run(
                argv, env=self.environment, capture_output=True, text=True, check=False
            )
            said = done.stdout + done.stderr
            if done.stdout.strip() == "idle 2":
                return
        raise AssertionError(f"Slurm did not start: {said}\n{self.logs()}")
