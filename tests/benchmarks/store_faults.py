#!/usr/bin/env python
"""Hurts a store in every known way, many times, and counts how often it survives.

    python tests/benchmarks/store_faults.py [--seeds N] [--only KIND]

Real worker processes are killed, stopped and woken in the middle of a write, a real file system
runs full, shards and receipts are cut, turned, deleted and swapped. Survived means: the fault was
found and named, no wrong row was read at any time, and the same command, or what `bathyscope
verify` says, brought back every row. See `tests/support/faults.py`.

`disk_full` mounts a small tmpfs, which takes the rights of root.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from bench import conclude

# Shared with the tests, which try every kind once.
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from faults import KINDS, can_mount


def survives(kind: str, seed: int) -> bool:
    """Hurt one store."""
    with tempfile.TemporaryDirectory(prefix="bathyscope-fault-") as folder:
        try:
            KINDS[kind](Path(folder), random.Random(f"{kind}-{seed}"))
        except Exception:
            traceback.print_exc()
            return False
    return True


def main() -> None:
    """Every kind with every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", choices=KINDS)
    given = parser.parse_args()
    kinds = [given.only] if given.only else list(KINDS)
    if "disk_full" in kinds and not can_mount():
        print("disk_full is left out: this process may not mount a file system")
        kinds.remove("disk_full")
    survived = {}
    for kind in kinds:
        start = time.perf_counter()
        survived[kind] = sum(survives(kind, seed) for seed in range(given.seeds))
        took = time.perf_counter() - start
        print(f"{kind:28s} {survived[kind]} of {given.seeds}  {took:.0f} s", flush=True)
    conclude(
        {
            "tried": len(kinds) * given.seeds,
            "survived": sum(survived.values()),
            "kinds": len(kinds),
            "seeds": given.seeds,
        }
    )


if __name__ == "__main__":
    main()
