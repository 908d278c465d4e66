#!/usr/bin/env python
"""What it brings to keep freed memory in the process while a model runs on the CPU.

    python tests/benchmarks/allocator.py [model.dtype=float32]

SmolLM2 up to the hook point, batches of 8 sequences of 256 tokens, nothing stored. Each measurement
is a process of its own, with glibc as it is and with `keep_freed_memory`, in turns.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bathyscope.jobs.allocator import keep_freed_memory
from bathyscope.models.capture import capture_batches
from bathyscope.stages.model import describe_model, load_for_hooks
from bench import arguments, conclude, configuration

ROLE = "BATHYSCOPE_KEEPS"
ROUNDS, BATCHES = 4, 12


def measured(overrides: list[str], *, keeps: bool) -> tuple[float, int]:
    """Tokens per second, and page faults of a batch, in this process."""
    if keeps:
        assert keep_freed_memory()
    config = configuration(Path(tempfile.gettempdir()) / "never-made", *overrides)
    loaded, hooks = load_for_hooks(config, describe_model(config))
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(3, 40_000, (8, 256), generator=generator) for _ in range(BATCHES)]
    for some in (batches[:2], batches):
        faults, started = _faults(), time.perf_counter()
        for _ in capture_batches(loaded.model, hooks, some):
            pass
    seconds = time.perf_counter() - started
    return BATCHES * 8 * 256 / seconds, (_faults() - faults) // BATCHES


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def in_a_process(overrides: list[str], *, keeps: bool) -> tuple[float, int]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *overrides],
        env={**os.environ, ROLE: str(int(keeps))},
        capture_output=True,
        text=True,
        check=True,
    )
    rate, faults = done.stdout.split()[-2:]
    return float(rate), int(faults)


def main() -> None:
    """Take turns; print the ratio of the medians."""
    given = arguments(__doc__)
    if ROLE in os.environ:
        print(*measured(given.overrides, keeps=os.environ[ROLE] == "1"))
        return
    found: dict[bool, list[tuple[float, int]]] = {False: [], True: []}
    for turn in range(ROUNDS):
        for keeps in (turn % 2 == 0, turn % 2 == 1):
            found[keeps].append(in_a_process(given.overrides, keeps=keeps))
        print(f"turn {turn}", {k: round(v[-1][0]) for k, v in found.items()}, flush=True)
    rates = {keeps: statistics.median(rate for rate, _ in one) for keeps, one in found.items()}
    conclude(
        {
            "over_default": round(rates[True] / rates[False], 3),
            "tokens_per_s": round(rates[True]),
            "default_tokens_per_s": round(rates[False]),
            "faults_per_batch": max(faults for _, faults in found[True]),
            "default_faults_per_batch": min(faults for _, faults in found[False]),
        }
    )


if __name__ == "__main__":
    main()
