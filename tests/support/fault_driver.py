"""The driver of a harvest over a Ray cluster, as a process of its own that can be killed."""

from __future__ import annotations

import sys

from bathyscope.jobs.cluster import Cluster
from bathyscope.jobs.sink import Silent
from bathyscope.stages import harvest
from support import read_config


class Told(Silent):
    """Notes go to the log."""

    def note(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")


def main() -> None:
    """`fault_driver.py CONFIG.json`"""
    cluster = Cluster(read_config(sys.argv[1]))
    try:
        cluster.drive(harvest, Told())
    finally:
        cluster.close()


if __name__ == "__main__":
    main()
