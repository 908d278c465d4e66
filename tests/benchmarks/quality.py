#!/usr/bin/env python
"""How well dictionaries reconstruct: ours beside SAELens' and sparsify's, on the demo's rows.

    PEERS/bin/python tests/benchmarks/quality.py --run runs/demo --folder FOLDER

Needs a finished demo, and an environment with `sae-lens==6.54.12`, `eai-sparsify==1.3.3` and this
package. All train 100 steps of 2,048 rows of `resid_post.9`, the same ones in the same order,
4,608 latents; rows are divided by one number, their deviation. Each contender picks the better of
two learning rates at the middle L0 by held-out FVU; sparsify may also choose signum, its default
optimiser. Then three L0s and three seeds. Everything is measured in inference mode on held-out
rows: FVU, L0, and the cross-entropy of the model with the reconstruction in place, per document.
BatchTopK of both sides uses the threshold that gives its L0 on training rows.

Each result is appended to FOLDER/quality.jsonl as it comes; the script goes on from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trainers import Ours, SaeLens, Size, Sparsify, Trainer

from bathyscope.composition import compose
from bathyscope.evaluation.splice import Restart, add_batch
from bathyscope.metrics.splice import TokenLosses
from bathyscope.runs.run import Run
from bathyscope.stages.masks import kept
from bathyscope.stages.model import load_tail
from bathyscope.values import HELD_OUT, TRAIN
from bench import conclude

HOOK, LAYER, D, LATENTS = "resid_post.9", 9, 576, 4608
STEPS, BATCH = 100, 2048
RATES = (1e-3, 3e-3)
L0S, SEEDS = (16, 32, 64), (0, 1, 2)
SPLICED_ITEMS = 40

CONTENDERS: dict[str, Callable[[Size], Trainer]] = {
    "ours topk": lambda size: Ours("topk", size),
    "ours batch_topk": lambda size: Ours("batch_topk", size),
    "saelens topk": lambda size: SaeLens("topk", size),
    "saelens batch_topk": lambda size: SaeLens("batch_topk", size),
    "sparsify adam": lambda size: Sparsify(size),
    "sparsify signum": lambda size: Sparsify(size, optimizer="signum"),
}
PEERS = ("saelens topk", "saelens batch_topk", "sparsify")


class Rows:
    """The training batches of a seed, and the held-out rows and items, scaled."""

    def __init__(self, url: str) -> None:
        self.run = Run(url)
        self.rows = self.run.activations[HOOK]
        self.scale = float(self.rows.moments(TRAIN, kept).mean_squared_deviation ** 0.5)
        self._batches = self.rows.batches(
            TRAIN, kept, batch_rows=BATCH, streams=128, window_chunks=16, memory_bytes=2**31
        )
        held_out = self.run.corpus.split_range(HELD_OUT)
        self.items = range(held_out.start, min(held_out.stop, held_out.start + SPLICED_ITEMS))
        everything = self.rows.items(held_out.start, held_out.stop)[:, 1:]
        self.held_out = everything.flatten(0, 1).float() / self.scale
        config, _ = compose([])
        self.forward = Restart(load_tail(config, LAYER + 1).model)

    def batches(self, seed: int) -> list[Tensor]:
        per_epoch = self._batches.num_steps(seed, 0)
        return [
            self._batches.batch(seed, *divmod(step, per_epoch)).float() / self.scale
            for step in range(STEPS)
        ]


@torch.no_grad()
def measure(trainer: Trainer, rows: Rows) -> dict[str, Any]:
    """FVU and L0 on all held-out rows; cross-entropy per document on some items."""
    x = rows.held_out
    left, active = 0.0, 0.0
    for block in x.split(2048):
        coded = trainer.code(block)
        left += float((block - coded.x_hat).square().sum())
        active += float((coded.latents > 0).sum())
    corpus, losses = rows.run.corpus, TokenLosses()
    for start in range(rows.items.start, rows.items.stop, 2):
        stop = min(start + 2, rows.items.stop)
        add_batch(
            losses,
            rows.forward,
            tokens=corpus.tokens(start, stop),
            activations=rows.rows.items(start, stop),
            keep=torch.from_numpy(kept(corpus.masks(start, stop))),
            documents=torch.from_numpy(corpus.documents(start, stop).astype("int64")),
            variants={"coder": lambda a: trainer.code(a / rows.scale).x_hat * rows.scale},
        )
    found = losses.results()
    coder, clean = found["coder"], found["clean"]
    return {
        "fvu": left / float((x - x.mean(0)).square().sum()),
        "l0": active / len(x),
        "delta_ce": coder.mean_ce() - clean.mean_ce(),
        "ce_sums": [float(v) for v in coder.ce_sums - clean.ce_sums],
        "tokens": [int(n) for n in coder.num_tokens],
    }


class Results:
    """What was measured, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.found: dict[str, dict[str, Any]] = {json.loads(n)["key"]: json.loads(n) for n in lines}

    def get(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a key, made and appended where it is not there."""
        if key not in self.found:
            self.found[key] = {"key": key, **make()}
            with self._path.open("a") as file:
                file.write(json.dumps(self.found[key]) + "\n")
            short = {n: round(self.found[key][n], 4) for n in ("fvu", "l0", "delta_ce")}
            print(key, short, flush=True)
        return self.found[key]


def train_and_measure(name: str, size: Size, rows: Rows) -> dict[str, Any]:
    """One training from its seed, and what it gave."""
    trainer = CONTENDERS[name](size)
    trainer.train(rows.batches(size.seed))
    return measure(trainer, rows)


def paired(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean differences theirs - ours over the same seeds, with 95 % bootstrap intervals.

    FVU resamples pairs of trainings; ΔCE resamples documents, of all trainings together.
    """
    generator = np.random.default_rng(0)
    fvu = np.array([b["fvu"] - a["fvu"] for a, b in zip(ours, theirs, strict=True)])
    picks = generator.integers(len(fvu), size=(2000, len(fvu)))
    sums = np.mean(
        [np.subtract(b["ce_sums"], a["ce_sums"]) for a, b in zip(ours, theirs, strict=True)], 0
    )
    tokens = np.array(ours[0]["tokens"])
    documents = generator.integers(len(tokens), size=(2000, len(tokens)))
    ce = sums[documents].sum(1) / tokens[documents].sum(1)
    return {
        "fvu": float(fvu.mean()),
        "fvu_interval": np.percentile(fvu[picks].mean(1), [2.5, 97.5]).tolist(),
        "ce": float(sums.sum() / tokens.sum()),
        "ce_interval": np.percentile(ce, [2.5, 97.5]).tolist(),
    }


def main() -> None:
    """Choose rates, train all, compare with the better peer at each L0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/demo", help="a finished demo")
    parser.add_argument("--folder", type=Path, required=True, help="where results are kept")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    rows, results = Rows(given.run), Results(given.folder / "quality.jsonl")

    def at(name: str, k: int, seed: int, lr: float) -> dict[str, Any]:
        size = Size(D, LATENTS, k, lr, seed)
        return results.get(
            f"{name} k {k} seed {seed} lr {lr}", lambda: train_and_measure(name, size, rows)
        )

    best = {
        name: min(RATES, key=lambda lr, name=name: at(name, L0S[1], SEEDS[0], lr)["fvu"])
        for name in CONTENDERS
    }
    by_name = {name: at(name, L0S[1], SEEDS[0], lr)["fvu"] for name, lr in best.items()}
    sparsify = min(("sparsify adam", "sparsify signum"), key=by_name.__getitem__)
    chosen = [name for name in CONTENDERS if not name.startswith("sparsify")] + [sparsify]
    found = {
        (name, k): [at(name, k, seed, best[name]) for seed in SEEDS] for k in L0S for name in chosen
    }
    figures: dict[str, Any] = {"rates": {name: best[name] for name in chosen}}
    for k in L0S:
        peers = [name for name in chosen if not name.startswith("ours")]
        means = {name: statistics.mean(r["fvu"] for r in found[name, k]) for name in chosen}
        peer = min(peers, key=means.__getitem__)
        for name in ("ours topk", "ours batch_topk"):
            difference = paired(found[name, k], found[peer, k])
            figures[f"{name} k {k}"] = {"fvu": round(means[name], 4), "peer": peer, **difference}
            print(name, "k", k, figures[f"{name} k {k}"], flush=True)
        for name in chosen:
            l0 = statistics.mean(r["l0"] for r in found[name, k])
            ce = statistics.mean(r["delta_ce"] for r in found[name, k])
            print(f"  {name:20} FVU {means[name]:.4f}  L0 {l0:.2f}  ΔCE {ce:.4f}")
    conclude(figures)


if __name__ == "__main__":
    main()
