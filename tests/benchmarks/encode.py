#!/usr/bin/env python
"""TopK encode over the float32 matmul that it contains: time, and memory beside the inputs.

    python tests/benchmarks/encode.py

8192 rows at two shapes. The matmul alone (x @ W_enc^T into a new matrix) and ours take turns in
one process; the dense way (matmul, relu, torch.topk) stands beside, and ours with float32 scores,
as on a CPU that does not multiply bfloat16. Memory is the peak of the
resident set of a child process over its size with the inputs made and a small encode done.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from bathyscope_kernels import topk_encode
from bathyscope_kernels.cpu import encode as cpu_encode
from bench import conclude

ROWS = 8192
SHAPES = ((576, 8192, 32), (768, 24576, 32))
ROUNDS = 9


def inputs(rows: int, d: int, latents: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with unequal dimensions and unit latents; random, never zeros."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, d, generator=generator) * torch.linspace(2, 0.2, d)
    W = torch.nn.functional.normalize(torch.randn(latents, d, generator=generator), dim=1)
    return x, W, 0.01 * torch.randn(latents, generator=generator)


def dense(x: Tensor, W: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What everybody else does."""
    return torch.relu(torch.addmm(b, x, W.T)).topk(k, dim=1)  # type: ignore[return-value]


def with_float32_scores(x: Tensor, W: Tensor, b: Tensor, k: int) -> None:
    """Ours, as if this CPU had no bfloat16 units."""
    with mock.patch.object(cpu_encode, "rounds_scores", return_value=False):
        topk_encode(x, W, b, k)


def seconds(d: int, latents: int, k: int) -> dict[str, list[float]]:
    """Time the three ways in turns."""
    x, W, b = inputs(ROWS, d, latents)
    ways = {
        "matmul": lambda rows: rows @ W.T,
        "ours": lambda rows: topk_encode(rows, W, b, k),
        "float32": lambda rows: with_float32_scores(rows, W, b, k),
        "dense": lambda rows: dense(rows, W, b, k),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        # Other rows in each turn, so that nothing is found in a cache.
        rows = x.roll(turn * 1000 + 1, 0) * (1 + 0.01 * turn)
        for name, way in ways.items():
            started = time.perf_counter()
            way(rows)
            if turn > 0:
                found[name].append(time.perf_counter() - started)
    return found


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def extra_bytes(way: str, d: int, latents: int, k: int) -> int:
    """Peak of the resident set over the inputs; meant for a process of its own."""
    x, W, b = inputs(ROWS, d, latents)
    function = topk_encode if way == "ours" else dense
    function(x[:64], W[:1024], b[:1024], k)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = resident("VmRSS")
    kept = function(x, W, b, k)
    peak = resident("VmHWM")
    del kept
    return peak - before


def child(way: str, shape: tuple[int, int, int]) -> int:
    """`extra_bytes` in a fresh process."""
    command = [sys.executable, __file__, way, *map(str, shape)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print both shapes; the worst of each figure is the result."""
    worst: dict[str, float] = {"over_matmul": 0.0, "extra_bytes": 0}
    for shape in SHAPES:
        found = {name: statistics.median(times) for name, times in seconds(*shape).items()}
        memory = {way: child(way, shape) for way in ("ours", "dense")}
        ratio = {way: round(found[way] / found["matmul"], 4) for way in found}
        print(
            f"d {shape[0]}  latents {shape[1]}  k {shape[2]}:  matmul {found['matmul'] * 1e3:.0f} "
            f"ms  ours {ratio['ours']:.2f}x, {memory['ours'] / 1e6:.0f} MB  with float32 scores "
            f"{ratio['float32']:.2f}x  dense {ratio['dense']:.2f}x, {memory['dense'] / 1e6:.0f} MB",
            flush=True,
        )
        figures = {
            "over_matmul": ratio["ours"],
            "over_matmul_float32_scores": ratio["float32"],
            "dense_over_matmul": ratio["dense"],
            "extra_bytes": memory["ours"],
            "dense_extra_bytes": memory["dense"],
        }
        worst = {name: max(worst.get(name, 0), value) for name, value in figures.items()}
    conclude(worst)


if __name__ == "__main__":
    if len(sys.argv) == 5:
        print(extra_bytes(sys.argv[1], *map(int, sys.argv[2:])))
    else:
        main()
