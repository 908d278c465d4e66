#!/usr/bin/env python
"""Activations, latents and dictionary are the same bytes with cluster=inline and cluster=local.

    python tests/benchmarks/same_bytes.py

SmolLM2 on a small corpus, once in this process and once over Ray. Compared are the stored
objects themselves: every shard, the weights and the manifests.
"""

from __future__ import annotations

from pathlib import Path

from bathyscope.commands.run import run
from bench import arguments, conclude, configuration, folder

STAGES = ("corpus", "harvest", "train", "encode")
ARTIFACTS = {
    "activations": "activations.zarr",
    "latents": "latents.zarr",
    "dictionary": "dictionaries",
}


def stored(root: Path) -> dict[str, bytes]:
    """Every object below a folder but receipts, which say who wrote when."""
    files = (p for p in root.rglob("*") if p.is_file() and "receipts" not in p.parts)
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def main() -> None:
    """Run both, compare, print."""
    given = arguments(__doc__)
    with folder(given.folder) as base:
        for kind in ("inline", "local"):
            run(configuration(base / kind, f"cluster={kind}", *given.overrides), stages=STAGES)
        figures: dict[str, int] = {}
        for name, artifact in ARTIFACTS.items():
            inline, local = stored(base / "inline" / artifact), stored(base / "local" / artifact)
            figures[f"{name}_equal"] = int(inline == local and bool(inline))
            size = sum(map(len, inline.values()))
            print(
                f"{name:12s} {len(inline):4d} objects, {size / 1e6:8.1f} MB  "
                f"{'equal' if figures[f'{name}_equal'] else 'DIFFERENT'}"
            )
    conclude({"equal": int(all(figures.values())), **figures})


if __name__ == "__main__":
    main()
