#!/usr/bin/env python
"""What dictionaries find of planted directions: every kind of ours, and TopK of the peers.

    PEERS/bin/python tests/benchmarks/planted.py

256 directions in 64 dimensions, used by Zipf's law, with families, friends, heavy tails, a mean and
noise (`bathyscope.evaluation.planted`). Dictionaries have 384 latents, half as many again, and k 8.
Everybody trains 600 steps of 1,024 rows, the same ones in the same order, with the better of two
rates by held-out FVU. Scores are on 8,192 held-out rows, in inference mode, the mean of three seeds
of dictionary and rows. Without the peers' packages only ours are trained.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

from trainers import Ours, SaeLens, Size, Sparsify, Trainer

from bathyscope.evaluation.planted import Planted
from bathyscope.metrics.planted import planted_scores
from bench import conclude

D, LATENTS, K = 64, 384, 8
STEPS, BATCH, HELD_OUT = 600, 1024, 8192
RATES, SEEDS = (1e-3, 3e-3), (0, 1, 2)

OURS: dict[str, Callable[[Size], Trainer]] = {
    "topk": lambda size: Ours("topk", size),
    "batch_topk": lambda size: Ours("batch_topk", size),
    "jumprelu": lambda size: Ours("jumprelu", size),
    "relu": lambda size: Ours("relu", size),
    "gated": lambda size: Ours("gated", size),
    "matryoshka": lambda size: Ours("batch_topk", size, prefixes=(24, 48, 96, 192, 384)),
}
PEERS: dict[str, Callable[[Size], Trainer]] = {
    "saelens topk": lambda size: SaeLens("topk", size),
    "saelens batch_topk": lambda size: SaeLens("batch_topk", size),
    "sparsify topk": lambda size: Sparsify(size),
}


def has_peers() -> bool:
    """Whether both peers are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("sae_lens", "sparsify"))


def one(make: Callable[[Size], Trainer], lr: float, seed: int) -> dict[str, float]:
    """One training and its scores."""
    source = Planted(D, l0=K, seed=100 + seed)
    batches = [source.rows(BATCH, 10_000 * (seed + 1) + step).x for step in range(STEPS)]
    held_out = source.rows(HELD_OUT, 5)
    scale = float((batches[0] - batches[0].mean(0)).square().mean().sqrt())
    trainer = make(Size(D, LATENTS, K, lr, seed, dead_after=50 * BATCH))
    trainer.train([batch / scale for batch in batches])
    x = held_out.x / scale
    coded = trainer.code(x)
    scores = planted_scores(
        source.directions, trainer.decoder(), held_out.active, coded.latents > 0
    )
    unexplained = (x - coded.x_hat).square().sum() / (x - x.mean(0)).square().sum()
    l0 = float((coded.latents > 0).sum(1).float().mean())
    return {"fvu": float(unexplained), "l0": l0, **scores._asdict()}


def main() -> None:
    """Train all, print the table."""
    makers = {**OURS, **(PEERS if has_peers() else {})}
    figures: dict[str, Any] = {}
    for name, make in makers.items():
        rate = min(RATES, key=lambda lr, make=make: one(make, lr, SEEDS[0])["fvu"])
        found = [one(make, rate, seed) for seed in SEEDS]
        means = {key: round(statistics.mean(f[key] for f in found), 4) for key in found[0]}
        figures[name] = {"lr": rate, **means}
        print(f"{name:20}", figures[name], flush=True)
    if has_peers():
        for score in ("matched_cosine", "f1"):
            ours = max(figures[n][score] for n in ("topk", "batch_topk", "matryoshka"))
            figures[f"{score}_over_peers"] = round(ours / max(figures[n][score] for n in PEERS), 4)
    conclude(figures)


if __name__ == "__main__":
    main()
