#!/usr/bin/env python
"""What a training takes of memory, over what was predicted of it before it started.

    python tests/benchmarks/train_footprint.py [--rows 2048] [--k 32]

Each kind at two widths, in a process of its own: the trainer's loop over rows of planted
directions that lie in memory, with an eighth of the latents dead in each step; once without
checkpoints, and once with one after every step, which is under way during the next.

Measured is the peak of the resident set over what it was when everything but the dictionary was
there; predicted is `training.footprint`. `together` are three of a width on one stream of batches;
they are not in `least` and `most`, since on a fast disk their checkpoints are not all under way at
once, as is predicted.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.evaluation.planted import Planted
from bathyscope.jobs.allocator import keep_freed_memory
from bathyscope.stages.checkpoints import Checkpoints
from bathyscope.stores.objects import Objects
from bathyscope.training.footprint import DEAD_SHARE, Footprint, footprint, together
from bathyscope.training.initial import initialise
from bathyscope.training.loop import Plan, Point, Scaled, Trainee, train
from bathyscope.training.shard import split_tensors
from bathyscope.training.step import Step, StepFigures, StepSettings
from bench import conclude
from encode import resident

WIDTHS = ((512, 8192), (1024, 16384))
"""d, and latents."""
STEPS = 6


class Case(NamedTuple):
    """A kind: where it reads and writes, and how it chooses."""

    kind: str
    activation: str
    hook_points: int = 1
    prefixes: tuple[float, ...] = ()
    count: int = 1
    saves: bool = False


CASES = {
    "topk": Case("autoencoder", "topk"),
    "batch_topk": Case("autoencoder", "batch_topk"),
    "jumprelu": Case("autoencoder", "jumprelu"),
    "relu": Case("autoencoder", "relu"),
    "gated": Case("autoencoder", "gated"),
    "matryoshka": Case("autoencoder", "batch_topk", prefixes=(0.125, 0.25, 0.5, 1.0)),
    "crosscoder": Case("crosscoder", "batch_topk", hook_points=2),
    "together": Case("autoencoder", "topk", count=3),
}


class Rows:
    """Batches that lie in memory, as the loop asks for them."""

    in_memory = True

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._batches = batches
        self.batch_rows = len(batches[0])

    def num_steps(self, seed: int, epoch: int) -> int:
        return STEPS

    def batch(self, seed: int, epoch: int, step: int) -> Tensor:
        return self._batches[step % len(self._batches)].clone()


class WithDead(Step):
    """A step before which an eighth of the latents counts as dead."""

    def step(self, x: Tensor, y: Tensor | None = None) -> StepFigures:
        for silent in self.silent_tokens:
            silent[: int(DEAD_SHARE * len(silent))] = self.settings.dead_after_tokens
        return super().step(x, y)


def made(case: Case, d: int, latents: int, k: int) -> AnyDictionary:
    """A dictionary of that kind."""
    width = d // case.hook_points
    columns = columns_of([(f"x{number}", width) for number in range(case.hook_points)])
    return make_dictionary(
        case.kind, columns, columns, activation=case.activation, k=k, num_latents=latents,
        prefixes=tuple(round(share * latents) for share in case.prefixes),
    )  # fmt: skip


def planted(d: int, rows: int, count: int) -> Rows:
    """Batches of rows of unit deviation or so."""
    source = Planted(d, num_true=2 * d, l0=24.0)
    return Rows([((source.rows(rows, n).x - source.mean) / 0.15).bfloat16() for n in range(count)])


def trained(case: Case, d: int, latents: int, k: int, batches: Rows, folder: Path) -> None:
    """Train the dictionaries of a case together, as the stage does."""
    trainees, writers = [], []
    for number in range(case.count):
        dictionary = made(case, d, latents, k)
        x = batches.batch(0, 0, 0).float()
        initialise(dictionary, x=x, y=x, mean=x.mean(0), seed=number)
        step = WithDead(dictionary, StepSettings(1 / 32, dead_after_tokens=2**40), lr=1e-3)
        writer = Checkpoints(Objects(str(folder / str(number))), "s", split_tensors(dictionary))

        def save(
            done: int, curve: list[Point], step: Step = step, writer: Checkpoints = writer
        ) -> None:
            writer.write(done, step.state(), {})

        plan = Plan(epochs=1, lr=1e-3, warmup_share=0.1, decay_share=0.1, seed=0)
        trainees.append(Trainee(step, plan, save=save, save_every=int(case.saves)))
        writers.append(writer)
    train(trainees, batches, scaled=Scaled(trainees[0].step.dictionary, torch.ones(d)))
    for writer in writers:
        writer.wait()
    last = trainees[0].curve[-1].figures
    print(f"FVU {last.fvu:.3f} L0 {last.l0:.1f} dead {last.dead_share:.3f}", file=sys.stderr)


def measure(name: str, saves: int, d: int, latents: int, k: int, rows: int) -> dict[str, Any]:
    """Predict, train, and look at the peak; meant for a process of its own."""
    keep_freed_memory()
    case = CASES[name]._replace(saves=bool(saves))
    with tempfile.TemporaryDirectory() as folder:
        # Libraries and threads are there before.
        small = case._replace(count=1, saves=True)
        trained(small, 64, 512, 8, planted(64, 512, 1), Path(folder) / "small")
        batches = planted(d, rows, 2)
        with torch.device("meta"):
            one = footprint(made(case, d, latents, k), batch_rows=rows, checkpoints=case.saves)
        predicted = together([one] * case.count)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        before = resident("VmRSS")
        trained(case, d, latents, k, batches, Path(folder) / "large")
        return figures(predicted, resident("VmHWM") - before)


def figures(predicted: Footprint, measured: int) -> dict[str, Any]:
    """What was predicted of each use, and the ratio of the whole."""
    found = {name: round(getattr(predicted, name) / 1e6) for name in predicted._fields}
    ratio = round(measured / predicted.total, 3)
    return {"ratio": ratio, "measured": measured, "predicted": predicted.total, "mb": found}


def child(*words: object) -> dict[str, Any]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print every kind at both widths; the smallest and largest ratio are the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("rows", 2048), ("k", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    given = parser.parse_args()
    ratios: dict[str, float] = {}
    for (d, latents), name, saves in product(WIDTHS, given.only, (0, 1)):
        found = child(name, saves, d, latents, given.k, given.rows)
        ratios[f"{name}_{latents}{'_checkpoints' * saves}"] = found["ratio"]
        print(
            f"{name:10s} d {d}, {latents} latents, {'with' if saves else 'without'} checkpoints: "
            f"measured {found['measured'] / 1e6:.0f} MB, predicted {found['predicted'] / 1e6:.0f} "
            f"MB, ratio {found['ratio']:.2f}  {found['mb']}",
            flush=True,
        )
    alone = [ratio for name, ratio in ratios.items() if not name.startswith("together")]
    conclude({"least": min(alone), "most": max(alone), **ratios})


if __name__ == "__main__":
    if len(sys.argv) == 7 and sys.argv[1] in CASES:
        print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:]))))
    else:
        main()
