#!/usr/bin/env python
"""Four processes that hold the latents of a dictionary together, against one that holds all.

    python tests/benchmarks/latent_parallel.py

TopK and BatchTopK, d 96, 2,048 latents, k 16, batches of 512 planted rows, AuxK at work, 50 steps
over gloo. In float64 every step must choose the same latents. In float32 the first step must, on
rows in eighths, whose sums are exact; later a rounding may turn a near tie, so losses and the share
of equal choices are given. Bytes are what a process gives into the exchanges of keys and of
reconstructions, against the formula of `training.parallel.step_bytes`.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from parallel_case import Case, Outcome, free_port, run_case, run_rank

from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.evaluation.planted import Planted
from bathyscope.training.grid import Grid
from bathyscope.training.parallel import step_bytes
from bench import conclude

D, RANKS = 96, 4


@dataclass(frozen=True)
class Planting(Case):
    """A case of the tests, larger and with planted rows."""

    steps: int = 50
    rows: int = 512
    latents: int = 2048
    k: int = 16
    dead_after: int = 2048

    def make(self) -> AnyDictionary:
        columns = columns_of([("x", D)])
        return make_dictionary(
            "autoencoder", columns, columns, activation=self.activation, k=self.k,
            num_latents=self.latents, dtype=self.dtype, options={"group_rows": 128},
        )  # fmt: skip

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x = Planted(D, l0=12.0).rows(self.rows, 1000 + step).x
        if self.quantised:
            x = (8 * x).round() / 8
        return x.to(self.dtype), x.to(self.dtype)


CASES: dict[str, Planting] = {
    "topk float64": Planting(),
    "batch_topk float64": Planting(activation="batch_topk"),
    "topk float32": Planting(dtype=torch.float32, quantised=True),
    "batch_topk float32": Planting(activation="batch_topk", dtype=torch.float32, quantised=True),
    "bytes without AuxK": Planting(dtype=torch.float32, steps=5, dead_after=10**9),
}


def overlap(one: Tensor, other: Tensor) -> float:
    """Share of the entries of one that the other has too."""
    return float(torch.isin(one, other).double().mean())


def compare(case: Planting, wanted: Outcome, parts: list[Outcome]) -> dict[str, Any]:
    """The choices and losses of the four against those of the one."""
    chosen = [
        torch.cat([part.chosen[s] for part in parts]).sort().values for s in range(case.steps)
    ]
    same = [torch.equal(ours, one) for ours, one in zip(chosen, wanted.chosen, strict=True)]
    losses = [abs(parts[0].figures[s][0] / wanted.figures[s][0] - 1) for s in range(case.steps)]
    return {
        "first_step_same": same[0],
        "steps_same": sum(same),
        "largest_loss_difference": max(losses),
        "loss_difference_at_end": losses[-1],
        "overlap_at_end": round(overlap(chosen[-1], wanted.chosen[-1]), 6),
        "auxk_at_work": any(f[2] > 0 for f in wanted.figures),
    }


def main() -> None:
    """Run every case in four processes and in this one."""
    torch.set_num_threads(1)
    grid = Grid(1, RANKS)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        grids = [(case, grid) for case in CASES.values()]
        mp.spawn(run_rank, (grids, free_port(), folder), nprocs=RANKS)
        for number, (name, case) in enumerate(CASES.items()):
            parts = [
                Outcome(**torch.load(Path(folder) / f"{number}-{rank}.pt", weights_only=True))
                for rank in range(RANKS)
            ]
            figures[name] = compare(case, run_case(case), parts)
            if name.startswith("bytes"):
                wanted = step_bytes(grid, rows=case.rows, d_out=D, k=case.k)
                # The scale of the latents is fitted before the first step, by one more exchange.
                sent = {kind: parts[0].bytes_sent[kind] / (case.steps + 1) for kind in wanted}
                figures[name] = {"formula_per_step": wanted, "sent_per_step": sent}
            print(name, figures[name], flush=True)
    conclude(figures)


if __name__ == "__main__":
    main()
