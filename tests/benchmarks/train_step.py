#!/usr/bin/env python
"""One TopK training step over the float32 encode matmul that it contains.

    python tests/benchmarks/train_step.py

Forward, backward, Adam and unit decoder rows, by the trainer's own step, at two shapes, without
and with AuxK (10 % of the latents dead). Plain dense torch with fused Adam stands beside. The
three take turns, each turn with another batch.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from adapters import AUXK_WEIGHT, topk_step
from bench import conclude

ROWS, ROUNDS, LR = 2048, 7, 1e-3
SHAPES = ((576, 8192, 32), (768, 24576, 32))


class Dense:
    """The step in dense autograd, as most code has it."""

    def __init__(self, weights: dict[str, Tensor], k: int, dead: Tensor | None) -> None:
        self.w = {name: value.clone().requires_grad_() for name, value in weights.items()}
        self.k, self.dead = k, dead
        self.optimizer = torch.optim.Adam(self.w.values(), lr=LR, fused=True)

    def decode(self, pre: Tensor, k: int) -> Tensor:
        values, indices = pre.topk(k, dim=1)
        sparse = torch.zeros_like(pre).scatter(1, indices, torch.relu(values))
        return sparse @ self.w["W_dec"]

    def step(self, x: Tensor) -> float:
        pre = (x - self.w["b_dec"]) @ self.w["W_enc"].T + self.w["b_enc"]
        error = x - self.decode(pre, self.k) - self.w["b_dec"]
        loss = error.square().sum() / (x - x.mean(0)).square().sum()
        if self.dead is not None:
            left = error.detach()
            k_aux = min(x.shape[1] // 2, int(self.dead.sum()))
            found = self.decode(pre.masked_fill(~self.dead, -torch.inf), k_aux)
            spread = (left - left.mean(0)).square().sum()
            loss = loss + AUXK_WEIGHT * (left - found).square().sum() / spread
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.w["W_dec"] /= self.w["W_dec"].norm(dim=1, keepdim=True)
        return loss.item()


def ratios(d: int, latents: int, k: int, *, auxk: bool) -> dict[str, float]:
    """Median seconds of ours and the dense way over those of the matmul."""
    torch.manual_seed(0)
    batches = [torch.randn(ROWS, d) * torch.linspace(2, 0.2, d) for _ in range(ROUNDS + 1)]
    W = torch.nn.functional.normalize(torch.randn(latents, d), dim=1)
    weights = {"W_enc": W, "b_enc": torch.zeros(latents), "W_dec": W, "b_dec": torch.zeros(d)}
    dead = torch.rand(latents) < 0.1 if auxk else None
    ours, dense = topk_step(weights, k, LR, dead), Dense(weights, k, dead)
    transposed = W.T.contiguous()
    ways = {"matmul": lambda x: x @ transposed, "ours": ours.step, "dense": dense.step}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn, x in enumerate(batches):
        for name, way in ways.items():
            started = time.perf_counter()
            way(x.clone())
            if turn > 0:
                found[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(times) for name, times in found.items()}
    print(
        f"d {d}  latents {latents}  k {k}  AuxK {'on ' if auxk else 'off'}: matmul "
        f"{middle['matmul'] * 1e3:.0f} ms  ours {middle['ours'] / middle['matmul']:.2f}x  "
        f"dense {middle['dense'] / middle['matmul']:.2f}x",
        flush=True,
    )
    return {name: round(middle[name] / middle["matmul"], 4) for name in ("ours", "dense")}


def main() -> None:
    """Print all four; the worst of each kind is the result."""
    figures = {}
    for auxk in (False, True):
        found = [ratios(*shape, auxk=auxk) for shape in SHAPES]
        suffix = "_auxk" if auxk else ""
        figures[f"over_matmul{suffix}"] = max(f["ours"] for f in found)
        figures[f"dense_over_matmul{suffix}"] = max(f["dense"] for f in found)
    conclude(figures)


if __name__ == "__main__":
    main()
