#!/usr/bin/env python
"""Training steps of several kinds over the float32 encode matmul, and the loop over the bare step.

    python tests/benchmarks/train_kinds.py

2,048 rows, d 576, 8,192 latents, k 32, on rows of planted directions. Each dictionary first trains
until its choices are those of training, not of the start: 60 steps; the L0 that it then has is
printed. The step is the trainer's own: forward, backward, Adam, unit decoder rows. Beside it stands
the bare matmul, each turn with another batch; ratios of medians.

The loop adds what a training has around its step: batches drawn in shuffled order from a Zarr store
of SmolLM2's rows, scales, the watch over dead latents (100,000 silent tokens, as in the demo), the
curve, and a checkpoint every 100 steps, five times as often as by default.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.evaluation.planted import Planted
from bathyscope.runs.run import Run
from bathyscope.stages.hook_columns import HookColumns, batches_of, hook_columns, new_dictionary
from bathyscope.stages.trainings import train_one
from bathyscope.stores.objects import Objects
from bathyscope.training.initial import initialise
from bathyscope.training.loop import Scaled
from bathyscope.training.schedule import make_schedule
from bathyscope.training.step import Step, StepSettings
from bench import Quiet, conclude, configuration, inline

ROWS, D, LATENTS, K = 2048, 576, 8192, 32
SETTLE, ROUNDS = 60, 9
PREFIXES = (512, 1024, 2048, 4096, 8192)
KINDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "topk": ("topk", ()),
    "batch_topk": ("batch_topk", ()),
    "jumprelu": ("jumprelu", ()),
    "matryoshka": ("batch_topk", PREFIXES),
}


class Dense:
    """The step in dense autograd: every pre-activation, a mask, two matmuls."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.w = {
            name: tensor.detach().clone().requires_grad_()
            for name, tensor in dictionary.named_parameters()
        }
        self.kind = dictionary.activation.name
        self.prefixes = dictionary.prefixes or (LATENTS,)
        self.eps = getattr(dictionary.activation, "eps", 0.0)
        self.optimizer = torch.optim.Adam(self.w.values(), lr=1e-4, fused=True)

    def latents(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """Latents, and what the loss has besides."""
        none = pre.new_zeros(())
        if self.kind == "jumprelu":
            theta = self.w["activation.threshold"]
            band = ((pre - theta).abs() < self.eps / 2).float()
            move = theta - theta.detach()
            above = (pre > theta).float()
            l0 = (above - band / self.eps * move).sum(1).mean()
            return pre * above - theta.detach() / self.eps * band * move, (l0 / K - 1).square()
        acts = torch.relu(pre)
        if self.kind == "topk":
            values, indices = acts.topk(K, dim=1)
            return torch.zeros_like(acts).scatter(1, indices, values), none
        level = acts.detach().flatten().topk(K * len(acts)).values[-1]
        return acts * (acts >= level), none

    def step(self, x: Tensor) -> None:
        w = self.w
        z, more = self.latents((x - w["b_dec"]) @ w["W_enc"].T + w["b_enc"])
        spread = (x - x.mean(0)).square().sum()
        loss = more
        for prefix in self.prefixes:
            x_hat = z[:, :prefix] @ w["W_dec"][:prefix] + w["b_dec"]
            loss = loss + (x - x_hat).square().sum() / spread / len(self.prefixes)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            w["W_dec"] /= w["W_dec"].norm(dim=1, keepdim=True)


def rows(number: int, source: Planted) -> Tensor:
    """A batch of planted rows, of unit deviation or so."""
    x = source.rows(ROWS, number).x
    return (x - source.mean) / 0.15


def settled(activation: str, prefixes: tuple[int, ...], source: Planted) -> Step:
    """A training after its first steps."""
    columns = columns_of([("x", D)])
    made = make_dictionary(
        "autoencoder", columns, columns, activation=activation, k=K, num_latents=LATENTS,
        prefixes=prefixes, options={"group_rows": 1024},
    )  # fmt: skip
    first = rows(0, source)
    initialise(made, x=first, y=first, mean=first.mean(0), seed=0)
    step = Step(made, StepSettings(auxk_weight=0.0, dead_after_tokens=2**40), lr=2e-3)
    step.set_lr(2e-3)
    for number in range(SETTLE):
        step.step(rows(1 + number % 20, source))
    step.set_lr(1e-4)
    return step


def ratios(name: str, source: Planted) -> dict[str, float]:
    """Ours and dense over the matmul, and the L0 at which that is."""
    step = settled(*KINDS[name], source)
    assert isinstance(step.dictionary, Dictionary)
    dense, matrix = Dense(step.dictionary), torch.randn(D, LATENTS)
    l0: list[float] = []
    ways: dict[str, Callable[[Tensor], Any]] = {
        "matmul": lambda x: x @ matrix,
        "ours": lambda x: l0.append(step.step(x).l0),
        "dense": dense.step,
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(ROUNDS + 1):
        x = rows(1 + turn, source)
        for way, run in ways.items():
            started = time.perf_counter()
            run(x.clone())
            if turn:
                found[way].append(time.perf_counter() - started)
    middle = {way: statistics.median(times) for way, times in found.items()}
    result = {
        "over_matmul": round(middle["ours"] / middle["matmul"], 3),
        "dense_over_matmul": round(middle["dense"] / middle["matmul"], 3),
        "l0": round(statistics.mean(l0), 1),
        "matmul_ms": round(middle["matmul"] * 1e3, 1),
    }
    print(name, result, flush=True)
    return result


def loop_over_step(base: Path) -> dict[str, float]:
    """Rows a second of a whole training over those of its bare steps on the same batches."""
    config = inline(
        configuration(
            base / "run", "train.batch_rows=2048", "train.epochs=8", "dictionary.expansion=8",
            "train.dead_after_epochs=2.5", "train.checkpoint_steps=100",
        )
    )  # fmt: skip
    run_stages(config, stages=["corpus", "harvest"])
    columns = hook_columns(config, Run(config.url))
    pairs, steps = [], 0
    for turn in range(3):
        objects = Objects(str(base / f"turn-{turn}"))
        started = time.perf_counter()
        trained = train_one(config, columns, objects=objects, segment="s", guard=Quiet())
        whole = time.perf_counter() - started
        steps = trained.curve[-1].step
        pairs.append(bare_seconds(config, columns) / whole)
    return {"loop_over_step": round(statistics.median(pairs), 3), "steps": steps}


def bare_seconds(config: Config, columns: HookColumns) -> float:
    """The steps of that training alone: the same start, rates and batches, which lie in memory."""
    settings = config.train
    dictionary, (scales, mean) = new_dictionary(config, columns), columns.scales_and_mean()
    scaled, batches = Scaled(dictionary, scales), batches_of(config, columns)
    seed = settings.order_seed
    order = [(e, n) for e in range(settings.epochs) for n in range(batches.num_steps(seed, e))]
    ready = [scaled(batches.batch(seed, *place))[0] for place in order]
    initialise(dictionary, x=ready[0], y=ready[0], mean=mean, seed=settings.seed)
    dead_after = int(settings.dead_after_epochs * batches.num_rows)
    step = Step(
        dictionary,
        StepSettings(auxk_weight=settings.auxk_weight, dead_after_tokens=dead_after),
        lr=settings.lr,
    )
    schedule = make_schedule(
        lr=settings.lr,
        num_steps=len(ready),
        warmup_share=settings.warmup_share,
        decay_share=settings.decay_share,
    )
    started = time.perf_counter()
    for number, x in enumerate(ready):
        step.set_lr(schedule.at(number))
        step.step(x)
    return time.perf_counter() - started


def main() -> None:
    """Print every kind, then the loop."""
    source = Planted(D, l0=40.0)
    figures: dict[str, Any] = {name: ratios(name, source) for name in KINDS}
    with tempfile.TemporaryDirectory(prefix="bathyscope-bench-") as made:
        figures |= loop_over_step(Path(made))
    conclude(figures)


if __name__ == "__main__":
    main()
