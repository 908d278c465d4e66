#!/usr/bin/env python
"""A model over two processes: the same captures, and how much the two compute at once.

    python tests/benchmarks/pipeline.py [--batches 40]

SmolLM2 up to layer 9 in two processes of one thread each, which pass hidden states over gloo.
`overlap` is its speed over the same two processes with one batch at a time, each waiting for the
other; 2 is the most there can be. The captures of both hook points are compared with those of the
whole model in one process, bit for bit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as spawn
from torch import Tensor

from bathyscope.config import Config
from bathyscope.models.capture import capture
from bathyscope.models.load import load_model
from bathyscope.models.pipeline import PipelineStage, stage_blocks
from bathyscope.stages.model import describe_model
from bench import conclude, configuration

POINTS = ("resid_post.2", "resid_post.9")
ROUNDS = 3


def batches(count: int) -> list[Tensor]:
    """Random tokens [8, 256]."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 40_000, (8, 256), generator=generator) for _ in range(count)]


def stage(rank: int, config: Config, count: int, out: str) -> None:
    """One of the two processes; the second one writes what it measured."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=2)
    facts = describe_model(config)
    blocks = stage_blocks([1] * 10, 2)[rank]
    part = PipelineStage(facts.folder, blocks, facts.shape.hooks, dtype=facts.dtype)
    found = [{k: v.clone() for k, v in seen.items()} for seen in part.run(batches(2))]
    seconds: dict[str, list[float]] = {"together": [], "alone": []}
    for _ in range(ROUNDS):
        for name, at_once in (("together", count), ("alone", 1)):
            dist.barrier()
            started = time.perf_counter()
            for first in range(0, count, at_once):
                for _ in part.run(batches(count)[first : first + at_once]):
                    pass
                if at_once == 1:
                    dist.barrier()
            dist.barrier()
            seconds[name].append(time.perf_counter() - started)
    torch.save({"found": found, "seconds": seconds}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def main() -> None:
    """Run the two, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=40)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        config = configuration(
            Path(out) / "run", f"hooks.points=[{','.join(POINTS)}]", f"dictionary.hook={POINTS[1]}"
        )
        spawn.spawn(stage, (config, given.batches, out), nprocs=2)
        parts = [torch.load(f"{out}/{rank}.pt", weights_only=True) for rank in range(2)]
    torch.set_num_threads(1)
    facts = describe_model(config)
    whole = load_model(facts.folder, dtype=facts.dtype, layers=(0, 10), head=False)
    same = all(
        torch.equal(parts[place]["found"][number][name], x)
        for number, tokens in enumerate(batches(2))
        for place, (name, x) in enumerate(capture(whole.model, POINTS, tokens).items())
    )
    times = parts[1]["seconds"]
    ratios = sorted(a / t for a, t in zip(times["alone"], times["together"], strict=True))
    tokens = given.batches * 8 * 256
    conclude(
        {
            "same_captures": same,
            "overlap": round(ratios[len(ratios) // 2], 3),
            "spread": [round(ratios[0], 3), round(ratios[-1], 3)],
            "tokens_per_s": round(tokens / min(times["together"])),
            "one_at_a_time_tokens_per_s": round(tokens / min(times["alone"])),
        }
    )


if __name__ == "__main__":
    main()
