"""What the tests of the batch script give it to run."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from bathyscope.config import Config
from support import listing

PROGRAMS = {
    "ray": (sys.executable, "-m", "ray.scripts.scripts"),
    "bathyscope": (sys.executable, "-m", "bathyscope.cli"),
}
_DRIVER = """#!/bin/sh
# Stands for the driver: it waits for the notice, and has nothing to do when it comes back.
echo "driver, restart ${SLURM_RESTART_COUNT:-0}: $*"
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then exit 0; fi
trap 'echo the driver was told; exit 143' USR1
touch FOLDER/driver-is-up
while :; do sleep 0.1; done
"""


def waiting_driver(folder: Path) -> tuple[Path, Path]:
    """A driver that waits for USR1 and then leaves with 143, and the file that it makes before."""
    driver = folder / "driver.sh"
    driver.write_text(_DRIVER.replace("FOLDER", str(folder)), encoding="utf-8")
    driver.chmod(0o755)
    return driver, folder / "driver-is-up"


def words_of(config: Config, folder: Path) -> list[str]:
    """Words of the command line that compose a configuration, for two workers."""
    experiments = folder / "conf" / "experiment"
    experiments.mkdir(parents=True)
    values: dict[str, Any] = dataclasses.asdict(config)
    text = "# @package _global_\n" + yaml.safe_dump(values)
    (experiments / "tiny.yaml").write_text(text, encoding="utf-8")
    return [f"--config-dir={folder / 'conf'}", "experiment=tiny", "cluster.workers=2"]


def shards(run: Path) -> dict[str, bytes]:
    """The stored rows of a run."""
    found = listing(run / "activations.zarr")
    return {name: data for name, data in found.items() if re.search(r"/c(\.\d+)+$", name)}
