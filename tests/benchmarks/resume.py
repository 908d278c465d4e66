#!/usr/bin/env python
"""Four processes train, are killed with SIGKILL, and go on: on the same grid, and as two.

    python tests/benchmarks/resume.py [--folder FOLDER]

Two ranks of rows by two of latents, over gloo, on 40,000 harvested tokens of SmolLM2; TopK with
AuxK and BatchTopK, a checkpoint every 10 steps of 1,024 rows. Once a checkpoint is there all four
are killed at a random moment; they are started again, killed once more, and started to the end. The
weights must be those of a run that nobody killed, to the bit. Then from a killed run two processes
that only split latents go on: their last FVU is compared, and the weights by their relative norm.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.runs.run import Run
from bathyscope.stages.checkpoints import Seat
from bathyscope.stages.hook_columns import hook_columns, new_dictionary
from bathyscope.stages.place import Place
from bathyscope.stages.trained import tensors_of
from bathyscope.stages.trainings import train_one
from bathyscope.stores.objects import Objects
from bathyscope.training.grid import Grid
from bathyscope.training.parallel import ParallelMesh, gather_records
from bathyscope.training.shard import join_shards, split_tensors
from bench import Quiet, conclude, configuration, folder, inline

FOUR, TWO = Grid(2, 2), Grid(1, 2)
SETTINGS = (
    "train.epochs=3", "train.batch_rows=1024", "train.checkpoint_steps=10",
    "train.dead_after_epochs=0.2", "dictionary.expansion=4", "dictionary.group_rows=256",
)  # fmt: skip


def settings(base: Path, activation: str) -> Config:
    """The small run with a dictionary of this activation function."""
    return inline(configuration(base / "run", *SETTINGS, f"dictionary.activation={activation}"))


def worker(base: Path, activation: str, name: str, grid: Grid, rank: int, port: int) -> None:
    """One process of a training; what it ends with goes into a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=grid.world
    )
    config = settings(base, activation)
    place = Place(Seat(grid, rank, gather_records), ParallelMesh(grid, seconds=60))
    trained = train_one(
        config,
        hook_columns(config, Run(config.url)),
        objects=Objects(str(base / name)),
        segment="seg",
        guard=Quiet(),
        place=place,
    )
    found = {"tensors": tensors_of(trained.dictionary), "fvu": trained.curve[-1].figures.fvu}
    torch.save(found, base / name / f"end-{grid.world}-{rank}.pt")
    dist.destroy_process_group()


def start(base: Path, activation: str, name: str, grid: Grid) -> list[subprocess.Popen[bytes]]:
    """The processes of a training."""
    (base / name).mkdir(parents=True, exist_ok=True)
    port = random.randrange(20_000, 60_000)
    words = [sys.executable, __file__, "--worker", str(base), activation, name]
    return [
        subprocess.Popen([*words, str(grid.data), str(grid.latents), str(rank), str(port)])
        for rank in range(grid.world)
    ]


def finish(base: Path, activation: str, name: str, grid: Grid) -> tuple[dict[str, Tensor], float]:
    """Let a training run to its end; the whole dictionary and the last FVU."""
    for process in start(base, activation, name, grid):
        assert process.wait() == 0, "a process failed"
    ends = [
        torch.load(base / name / f"end-{grid.world}-{rank}.pt", weights_only=True)
        for rank in range(grid.world)
    ]
    config = settings(base, activation)
    with torch.device("meta"):
        split = split_tensors(new_dictionary(config, hook_columns(config, Run(config.url))))
    shards = [ends[rank]["tensors"] for rank in grid.ranks_of_rows(0)]
    return join_shards(shards, split), ends[0]["fvu"]


def kill_after(base: Path, activation: str, name: str, steps: int) -> int:
    """Start four, kill them at some moment after a checkpoint of so many steps; the last one."""
    processes = start(base, activation, name, FOUR)
    records = base / name / "checkpoints/seg"
    while True:
        done = [int(p.stem) for p in records.glob("*.json")] if records.is_dir() else []
        if max(done, default=0) >= steps:
            break
        assert all(p.poll() is None for p in processes), "it ended before it was killed"
        time.sleep(0.02)
    time.sleep(random.random() * 0.5)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()
    return max(int(p.stem) for p in records.glob("*.json"))


def compare(base: Path, activation: str) -> dict[str, Any]:
    """A quiet run, one that was killed twice, and one that went on with two processes."""
    name = activation
    quiet, fvu = finish(base, activation, f"{name}-quiet", FOUR)
    first = kill_after(base, activation, f"{name}-killed", 20)
    second = kill_after(base, activation, f"{name}-killed", 50)
    again, _ = finish(base, activation, f"{name}-killed", FOUR)
    same = all(torch.equal(again[n].nan_to_num(), t.nan_to_num()) for n, t in quiet.items())
    kill_after(base, activation, f"{name}-fewer", 20)
    fewer, fewer_fvu = finish(base, activation, f"{name}-fewer", TWO)
    apart = (fewer["W_dec"] - quiet["W_dec"]).norm() / quiet["W_dec"].norm()
    return {
        "bitwise": same,
        "killed_after_checkpoints": [first, second],
        "fvu": fvu,
        "fvu_of_two_over_four": fewer_fvu / fvu,
        "weights_apart": float(apart),
    }


def main() -> None:
    """Harvest, then both activation functions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where runs are kept")
    random.seed(0)
    with folder(parser.parse_args().folder) as base:
        run_stages(settings(base, "topk"), stages=["corpus", "harvest"])
        figures = {}
        for activation in ("topk", "batch_topk"):
            figures[activation] = compare(base, activation)
            print(activation, figures[activation], flush=True)
    conclude(figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        base_, activation_, name_, data, latents, rank_, port_ = sys.argv[2:]
        grid_ = Grid(int(data), int(latents))
        worker(Path(base_), activation_, name_, grid_, int(rank_), int(port_))
    else:
        main()
