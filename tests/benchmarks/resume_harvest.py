#!/usr/bin/env python
"""A harvest whose worker is killed with SIGKILL goes on, repeats one unit and gives the same.

    python tests/benchmarks/resume_harvest.py

Twice: with cluster=inline, where the worker is the whole process and the command is given again;
and with cluster=local, where the Ray worker dies and the same command replaces it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

from bathyscope.runs.run import ACTIVATIONS, Run
from bathyscope.stores.objects import Objects
from bathyscope.values import Receipt
from bench import SMALL, arguments, command, conclude, folder

KILL_AFTER_UNITS = 3


def harvest(url: Path, *overrides: str) -> list[str]:
    """The command that harvests into a folder."""
    return command("harvest", *SMALL, *overrides, f"url={url}")


def corpus(url: Path, overrides: list[str]) -> None:
    """Make the corpus of a run."""
    words = command("corpus", *SMALL, *overrides, "cluster=inline", f"url={url}")
    subprocess.run(words, check=True)


def receipts(url: Path) -> dict[int, Receipt]:
    """The receipts of a finished harvest."""
    return dict(next(iter(Run(str(url)).activations.values())).readers[0].receipts)


def wait_until_under_way(url: Path, process: subprocess.Popen[bytes]) -> int:
    """Wait for some receipts and the next unit's lease; the process that holds it."""
    objects = Objects(str(url)).at(ACTIVATIONS)
    while process.poll() is None:
        done = sum(1 for _ in objects.walk("receipts"))
        leases = sorted(key for key, _ in objects.walk("leases"))
        if done >= KILL_AFTER_UNITS and leases:
            holder = json.loads(objects.get(leases[-1]))["holder"]
            return int(holder["pid"])
        time.sleep(0.02)
    raise SystemExit("the harvest ended before it could be killed: give it more tokens")


def kill_and_resume(url: Path, kind: str, overrides: list[str]) -> dict[int, Receipt]:
    """Kill the worker in the middle of a unit, then bring the harvest to its end."""
    corpus(url, overrides)
    process = subprocess.Popen(harvest(url, *overrides, f"cluster={kind}"))
    worker = wait_until_under_way(url, process)
    time.sleep(0.5)
    assert psutil.pid_exists(worker)
    os.kill(worker, signal.SIGKILL)
    print(f"killed process {worker} ({kind})")
    process.wait()
    subprocess.run(harvest(url, *overrides, f"cluster={kind}"), check=True)
    return receipts(url)


def digests(found: dict[int, Receipt]) -> list[tuple[int, str, str]]:
    """Unit, key and digest of every shard."""
    return [(u, s.key, s.stored_digest) for u, r in found.items() for s in r.shards]


def main() -> None:
    """A quiet run, then both kinds of death."""
    given = arguments(__doc__)
    figures: dict[str, int] = {}
    with folder(given.folder) as base:
        corpus(base / "quiet", given.overrides)
        subprocess.run(harvest(base / "quiet", *given.overrides, "cluster=inline"), check=True)
        quiet = receipts(base / "quiet")
        for kind in ("inline", "local"):
            found = kill_and_resume(base / kind, kind, given.overrides)
            repeated = sum(r.writer["attempt"] - 1 for r in found.values())
            same = int(digests(found) == digests(quiet))
            print(
                f"{kind}: {len(found)} units, {repeated} repeated, "
                f"digests {'same' if same else 'DIFFERENT'}"
            )
            suffix = "" if kind == "inline" else "_local"
            figures |= {f"same_digests{suffix}": same, f"units_repeated{suffix}": repeated}
    conclude(figures)


if __name__ == "__main__":
    main()
