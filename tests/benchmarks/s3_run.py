#!/usr/bin/env python
"""The whole demo with its run folder on a server process that speaks S3 (moto's, on this machine).

    python tests/benchmarks/s3_run.py [overrides]

Then the same command again, which must find everything complete. The server holds its objects in
memory, so the time says nothing of a real object store.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bathyscope
from bench import command, conclude

# Shared with the tests: the same server, started the same way.
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from s3_server import BUCKET, environment, s3_server


def seconds(words: list[str]) -> float:
    """How long a command takes that must succeed."""
    start = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Run, run again, and read the result through the Python API."""
    url = f"s3://{BUCKET}/runs/demo"
    words = command("run", "experiment=demo", f"url={url}", *sys.argv[1:])
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_server(Path(folder) / "server.log") as server,
        environment(server),
    ):
        first, again = seconds(words), seconds(words)
        run = bathyscope.open(url)
        found = run.evaluations["main"]["reconstruction"]["held_out"]["dictionary"]
        objects = sum(1 for _ in run.objects.walk())
    conclude(
        {
            "run_s": round(first, 1),
            "again_s": round(again, 1),
            "objects": objects,
            "fvu": round(float(found["fvu"]), 4),
        }
    )


if __name__ == "__main__":
    main()
