#!/usr/bin/env python
"""Peak memory of training steps at a million latents, over the weights and Adam's moments.

    python tests/benchmarks/train_memory.py [--latents 1048576] [--d 256] [--k 32] [--rows 4096]

The trainer's own step, on the CPU. The peak is that of the whole resident set, Python and torch
included; it is taken over the steps, after the weights are made. Dense gradients alone would add
the size of the weights once more.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from adapters import topk_step
from bench import conclude
from encode import resident

STEPS = 3


def main() -> None:
    """Make the weights, train some steps, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("latents", 2**20), ("d", 256), ("k", 32), ("rows", 4096)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(given.latents, given.d, generator=generator)
    W /= W.norm(dim=1, keepdim=True)
    weights = {
        "W_enc": W,
        "b_enc": torch.zeros(given.latents),
        "W_dec": W,
        "b_dec": torch.zeros(given.d),
    }
    trainer = topk_step(weights, given.k, 1e-3)
    parameters = sum(p.numel() * p.element_size() for p in trainer.weights().values())
    del W, weights
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    took = []
    for _ in range(STEPS):
        x = torch.randn(given.rows, given.d, generator=generator) * torch.linspace(2, 0.2, given.d)
        started = time.perf_counter()
        loss = trainer.step(x)
        took.append(time.perf_counter() - started)
        print(f"step of {given.rows} rows: {took[-1]:.1f} s  loss {loss:.4f}", flush=True)
    peak, state = resident("VmHWM"), 3 * parameters
    print(
        f"{given.latents:,} latents, d {given.d}, k {given.k}: weights and moments "
        f"{state / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB, "
        f"over the state {(peak - state) / 1e9:.2f} GB"
    )
    conclude(
        {
            "over_state_bytes": peak - state,
            "state_bytes": state,
            "peak_bytes": peak,
            "step_s": round(min(took), 3),
        }
    )


if __name__ == "__main__":
    main()
