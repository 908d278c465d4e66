#!/usr/bin/env python
"""Eight dictionaries in one pass, against eight runs.

    python tests/benchmarks/many.py

Dictionaries of 1,152 latents on SmolLM2's residual stream (d 576): four values of k, two seeds,
five epochs of 40,000 rows. `over_streaming` is the time of eight runs that each harvest and train,
over that of one sweep with its harvest. `over_stored` is the time of eight trainings that read the
same store, one after another, over that of one pass that trains all eight; the two take turns,
medians.

All in this process, so that no side pays for starting Python. The weights of both ways must be the
same to the bit.
"""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

import torch

from bathyscope.commands.run import run as run_stages
from bathyscope.commands.sweep import sweep
from bathyscope.composition import compose_sweep
from bathyscope.config import Config
from bathyscope.runs.run import Run
from bathyscope.sweep_points import SweepPoint
from bench import SMALL, arguments, conclude, folder, inline

GRID = ("dictionary.k=8,16,32,64", "train.seed=0,1")
ROUNDS = 3


def points_of(url: Path, overrides: list[str]) -> tuple[Config, list[SweepPoint]]:
    """The sweep's configuration, and its points."""
    settings = [
        *SMALL, "cluster=inline", "dictionary.expansion=2", "train.epochs=5",
        "train.batch_rows=2048", "sweep.evaluate=false", *overrides, f"url={url}",
    ]  # fmt: skip
    base, _, points = compose_sweep([*settings, *GRID])
    return inline(base), points


def swept(url: Path, overrides: list[str]) -> float:
    """Seconds of a sweep, with its harvest where there is none."""
    base, points = points_of(url, overrides)
    started = time.perf_counter()
    assert sweep(base, points, say=lambda text: None)
    return time.perf_counter() - started


def one_by_one(url: Path, overrides: list[str], stages: list[str], *, apart: bool) -> float:
    """Seconds of a run for each point: in a folder of its own, or all from one store."""
    _, points = points_of(url, overrides)
    seconds = 0.0
    for point in points:
        config = point.config
        if apart:
            config.url = f"{url}-{config.dictionary.name}"
        started = time.perf_counter()
        run_stages(config, stages=stages)
        seconds += time.perf_counter() - started
        if apart:
            shutil.rmtree(config.url)
    return seconds


def same_weights(one: Path, other: Path) -> bool:
    """Whether both ways gave the same dictionaries."""
    left, right = Run(str(one)).dictionaries, Run(str(other)).dictionaries
    assert list(left) == list(right)
    pairs = ((left[name].state_dict(), right[name].state_dict()) for name in left)
    return all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)


def main() -> None:
    """The store in turns, then whole runs."""
    given = arguments(__doc__)
    with folder(given.folder) as base:
        store = base / "store"
        _, points = points_of(store, given.overrides)
        run_stages(points[0].config, stages=["corpus", "harvest"])
        apart, together, same = [], [], True
        for turn in range(ROUNDS):
            for side in ("apart", "together"):
                shutil.copytree(store, base / f"{side}-{turn}")
            alone = one_by_one(base / f"apart-{turn}", given.overrides, ["train"], apart=False)
            passed = swept(base / f"together-{turn}", given.overrides)
            same = same and same_weights(base / f"apart-{turn}", base / f"together-{turn}")
            apart.append(alone)
            together.append(passed)
            print(f"turn {turn}: {alone:.1f} s one by one, {passed:.1f} s in one pass", flush=True)
        streamed = swept(base / "streamed", given.overrides)
        eight = one_by_one(
            base / "eight", given.overrides, ["corpus", "harvest", "train"], apart=True
        )
        conclude(
            {
                "over_streaming": round(eight / streamed, 2),
                "over_stored": round(
                    statistics.median(a / t for a, t in zip(apart, together, strict=True)), 3
                ),
                "dictionaries": len(points),
                "same_weights": same,
                "seconds": {
                    "eight_runs": round(eight, 1),
                    "sweep_with_harvest": round(streamed, 1),
                    "eight_trainings": [round(s, 1) for s in apart],
                    "one_pass": [round(s, 1) for s in together],
                },
            }
        )


if __name__ == "__main__":
    main()
