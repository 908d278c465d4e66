"""Stands in for `sbatch`, `srun` and `scontrol` over the nodes of `fake_nodes`.

It knows the options that `bathyscope.sbatch` uses and refuses every other one, so a misspelt option
is seen. A file `slurm.json` in the folder FAKE_SLURM holds the nodes and their processes; what
happens is noted there too: `job-N.pid` the batch script's process, `requeued` a line for each time.

    python fake_slurm.py sbatch|srun|scontrol …
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

from fake_nodes import FakeNodes, entering

PROGRAMS = ("sbatch", "srun", "scontrol")
_FLAGS = ("--exclusive", "--requeue", "--overlap")
_VALUES = (
    "--job-name", "--nodes", "--ntasks", "--ntasks-per-node", "--cpus-per-task", "--gpus-per-node",
    "--mem", "--time", "--signal", "--open-mode", "--output", "--dependency", "--nodelist",
    "--exclude", "--wait", "--kill-on-bad-exit",
)  # fmt: skip
_MARK = "FAKE_SLURM_STEP"
"""Variable that names the step of a process, as a cgroup does."""
MOST_REQUEUES = 20


def install(nodes: FakeNodes, programs: dict[str, Sequence[str]]) -> dict[str, str]:
    """The environment in which the three programs, and `programs`, are found on the PATH."""
    state = nodes.folder / "slurm"
    folder = nodes.folder / "bin"
    for made in (state, folder):
        made.mkdir()
    (state / "slurm.json").write_text(json.dumps(nodes.pids), encoding="utf-8")
    here = {name: (sys.executable, os.path.abspath(__file__), name) for name in PROGRAMS}
    for name, argv in {**here, **programs}.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "FAKE_SLURM": str(state)}


def sbatch(argv: Sequence[str]) -> int:
    """Run a batch script to its end, again for every time that it asks to be requeued."""
    place = next(i for i, word in enumerate(argv) if not word.startswith("-"))
    script, words = argv[place], argv[place + 1 :]
    lines = re.findall(r"^#SBATCH (.*)$", Path(script).read_text(encoding="utf-8"), re.MULTILINE)
    options = _options([word for line in lines for word in shlex.split(line)])
    options |= _options(argv[:place])
    assert re.fullmatch(r"B:USR1@\d+", options["--signal"]), options["--signal"]
    names = list(_nodes())
    assert int(options["--nodes"]) == len(names), "ask for as many nodes as there are"
    environment = {
        **os.environ,
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NUM_NODES": str(len(names)),
        "SLURM_JOB_NODELIST": f"node[1-{len(names)}]",
        "SLURM_CPUS_ON_NODE": options["--cpus-per-task"],
        "SLURM_CPUS_PER_TASK": options["--cpus-per-task"],
        "SLURM_SUBMIT_DIR": os.getcwd(),
    }
    code = 1
    for restart in range(MOST_REQUEUES):
        before = _times_requeued()
        if restart:
            environment["SLURM_RESTART_COUNT"] = str(restart)
        batch = subprocess.Popen(["bash", script, *words], env=environment, start_new_session=True)
        (_state() / "job-1.pid").write_text(str(batch.pid), encoding="utf-8")
        code = batch.wait()
        # Slurm ends all steps with the batch script.
        for left in _in_session(batch.pid):
            left.terminate()
        if _times_requeued() == before:
            return code
    return code


def srun(argv: Sequence[str]) -> int:
    """Run a command on nodes, and return the highest exit code."""
    place = next(i for i, word in enumerate(argv) if not word.startswith("-"))
    options, command = _options(argv[:place]), argv[place:]
    names = list(_nodes())
    if "--nodelist" in options:
        names = options["--nodelist"].split(",")
    if "--exclude" in options:
        names = [name for name in names if name not in options["--exclude"].split(",")]
    names = names[: int(options["--nodes"])]
    assert len(names) == int(options["--nodes"]) == int(options["--ntasks"]), (names, options)
    step = f"{os.getpid()}"
    tasks = []
    for rank, name in enumerate(names):
        more = {"SLURM_PROCID": str(rank), "SLURMD_NODENAME": name, _MARK: step}
        words = [*entering(_nodes()[name]), *command]
        tasks.append(subprocess.Popen(words, env={**os.environ, **more}, stdin=subprocess.DEVNULL))

    def stop(number: int, frame: FrameType | None) -> None:
        _end(step)

    signal.signal(signal.SIGTERM, stop)
    code = _finish(tasks, step, options)
    _end(step)
    return code


def scontrol(argv: Sequence[str]) -> int:
    """`show hostnames LIST` and `requeue JOB`."""
    match list(argv):
        case ["show", "hostnames", found]:
            assert found == f"node[1-{len(_nodes())}]", found
            sys.stdout.write("\n".join(_nodes()) + "\n")
        case ["requeue", "1"]:
            with (_state() / "requeued").open("a", encoding="utf-8") as file:
                file.write("1\n")
        case _:
            sys.stderr.write(f"scontrol: {argv} is not known here\n")
            return 1
    return 0


def _finish(tasks: Sequence[subprocess.Popen[bytes]], step: str, options: dict[str, str]) -> int:
    """Wait for tasks; the others end some time after the first one, or at once after a failure."""
    patience = float(options.get("--wait", "inf"))
    first: float | None = None
    while any(task.poll() is None for task in tasks):
        codes = [task.poll() for task in tasks]
        if any(code is not None for code in codes) and first is None:
            first = time.monotonic()
        failed = options.get("--kill-on-bad-exit") == "1" and any(codes)
        if failed or (first is not None and time.monotonic() - first > patience):
            _end(step)
        time.sleep(0.1)
    return max(code if code >= 0 else 128 - code for code in (task.wait() for task in tasks))


def _end(step: str) -> None:
    """End all that a step started, daemons too: SIGTERM, and SIGKILL after two seconds."""
    found = _processes_of(step)
    for process in found:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(found, timeout=2)
    # Those that these have started meanwhile as well.
    for process in {*left, *_processes_of(step)}:
        with suppress(psutil.Error):
            process.kill()


def _processes_of(step: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() != "nsenter" and process.environ().get(_MARK) == step:
                found.append(process)
    return found


def _in_session(leader: int) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if _session_of(p.pid) == leader]


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _options(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        known = name in _FLAGS if not value else name in _VALUES
        if not known:
            raise SystemExit(f"slurm: there is no option {word}, or it lacks its =value")
        found[name] = value
    return found


def _state() -> Path:
    return Path(os.environ["FAKE_SLURM"])


def _nodes() -> dict[str, int]:
    found: dict[str, int] = json.loads((_state() / "slurm.json").read_text(encoding="utf-8"))
    return found


def _times_requeued() -> int:
    path = _state() / "requeued"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


if __name__ == "__main__":
    sys.exit({"sbatch": sbatch, "srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
