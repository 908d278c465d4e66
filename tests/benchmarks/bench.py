"""What benchmark scripts share: the small SmolLM2 configuration, and how figures are printed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bathyscope.composition import compose
from bathyscope.config import Config

SMALL = (
    "experiment=smoke",
    "data.packages=[stdlib]",
    "data.train_tokens=40000",
    "data.held_out_tokens=6000",
)


def arguments(about: str | None) -> argparse.Namespace:
    """`--folder` for the runs (a temporary one by default), and further overrides."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--folder", type=Path, help="where runs are kept")
    parser.add_argument("overrides", nargs="*", help="settings such as data.train_tokens=20000")
    return parser.parse_args()


@contextmanager
def folder(given: Path | None) -> Iterator[Path]:
    """The given folder, or a temporary one that is removed at the end."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="bathyscope-bench-") as made:
        yield Path(made)


class Quiet:
    """A guard that lets everything pass."""

    keep, turn = True, None

    def check(self) -> None:
        return None

    def progress(self, fraction: float, text: str = "") -> None:
        return None


def configuration(url: Path, *overrides: str) -> Config:
    """The small configuration with overrides."""
    config, _ = compose([*SMALL, *overrides, f"url={url}"])
    return config


def inline(config: Config) -> Config:
    """The same run in this process: what comes before and beside a run over Ray."""
    cluster = dataclasses.replace(config.cluster, kind="inline", gpus_per_worker=0)
    return dataclasses.replace(config, cluster=cluster)


def command(*words: str) -> list[str]:
    """The command line of this environment's `bathyscope`."""
    return [sys.executable, "-m", "bathyscope.cli", *words]


def conclude(figures: dict[str, Any]) -> None:
    """Print where the figures were measured, and then all of them as one JSON object."""
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, "
        f"commit {COMMIT}"
    )
    print(json.dumps(figures))


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


# Asked at the start: a long benchmark measures the code that it has loaded.
COMMIT = _commit()
