#!/usr/bin/env python
"""What a night costs: with nothing new, with a new file, with a new checkpoint, and all at once.

    python tests/benchmarks/nightly.py

SmolLM2 and documentation of the standard library, cut into files; a dictionary is trained first.
`nothing_new_s` is the whole command, of which `start_up_s` is the import of what it needs.
`new_file` and `new_checkpoint` are over a night that reads everything at once, beside the share of
its tokens. A night with nothing new may write a heartbeat alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bathyscope.corpora.documentation import documentation
from bathyscope.models.sources import local_folder
from bathyscope.runs.run import Run
from bench import SMALL, arguments, command, conclude, folder

FILES = 5
CHARS = 120_000


def write_texts(inbox: Path, cache: Path) -> list[Path]:
    """Files of different documents, some thirty thousand tokens each."""
    inbox.mkdir()
    found, size, lines = [], 0, list[str]()
    for document in documentation(["stdlib"], cache_folder=cache):
        lines.append(json.dumps({"text": document.text}))
        size += len(document.text)
        if size >= CHARS:
            path = inbox / f"{len(found):02d}.jsonl"
            path.write_text("\n".join(lines), encoding="utf-8")
            found.append(path)
            size, lines = 0, []
        if len(found) == FILES:
            break
    return found


def checkpoint(model: Path, to: Path, noise: float) -> None:
    """The model under another name, one of its matrices moved a little."""
    shutil.copytree(model, to, ignore=shutil.ignore_patterns(".*"))
    weights = load_file(to / "model.safetensors")
    key = "model.layers.5.mlp.down_proj.weight"
    scale = noise * weights[key].std()
    weights[key] += scale * torch.randn(
        weights[key].shape, generator=torch.Generator().manual_seed(0)
    )
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})


def timed(words: list[str]) -> float:
    """Seconds of a command that must succeed."""
    started = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - started


def night(base: Path, url: Path, inbox: Path, overrides: list[str]) -> float:
    """Seconds of a night."""
    return timed(
        command(
            "nightly", "model=folder", "model.dtype=bfloat16", "data=jsonl",
            f"data.paths=[{inbox}/*.jsonl]", "data.sequence_length=256",
            "hooks.points=[resid_post.9]", f"dictionary.run={base / 'main'}",
            f"nightly.checkpoints=[{base / 'checkpoints'}]", "nightly.settle_s=0",
            "evaluate.splice_tokens=2000", "cluster=inline", *overrides, f"url={url}",
        )
    )  # fmt: skip


def files_in(url: Path) -> set[tuple[str, bytes]]:
    """Every file with its content, but for directories."""
    return {(str(p.relative_to(url)), p.read_bytes()) for p in url.rglob("*") if p.is_file()}


def tokens_of(url: Path) -> int:
    """Tokens that the last night read."""
    nights = Run(str(url)).objects.at("nights")
    results = json.loads(nights.get(Run(str(url)).night()["results_key"]))
    return sum(int(each["rows"]) for each in results["extractions"])


def main() -> None:
    """A full night and small ones, in turns, and a night with nothing new."""
    given = arguments(__doc__)
    with folder(given.folder) as base:
        cache = base / "cache"
        cache.mkdir(exist_ok=True)
        url = f"url={base / 'main'}"
        stages = ("corpus", "harvest", "train")
        for stage in stages:
            subprocess.run(command(stage, *SMALL, "cluster=inline", url), check=True)
        model = local_folder("smollm2_135m", {}, Path.home() / ".cache" / "bathyscope")
        checkpoint(model, base / "checkpoints" / "step-1", 0.0)
        texts = write_texts(base / "all", cache)
        inbox = base / "inbox"
        inbox.mkdir()
        for path in texts[:-1]:
            shutil.copy(path, inbox)
        night(base, base / "nights", inbox, given.overrides)
        shutil.copy(texts[-1], inbox)
        new_file = night(base, base / "nights", inbox, given.overrides)
        of_file = tokens_of(base / "nights")
        full = night(base, base / "full", base / "all", given.overrides)
        of_full = tokens_of(base / "full")
        checkpoint(model, base / "checkpoints" / "step-2", 0.05)
        new_checkpoint = night(base, base / "nights", inbox, given.overrides)
        of_checkpoint = tokens_of(base / "nights")
        before = files_in(base / "nights")
        nothing = night(base, base / "nights", inbox, given.overrides)
        written = files_in(base / "nights") ^ before
        start_up = timed([sys.executable, "-c", "import bathyscope.commands.nightly"])
        conclude(
            {
                "nothing_new_s": round(nothing, 2),
                "start_up_s": round(start_up, 2),
                "written_with_nothing_new": sorted({name for name, _ in written}),
                "new_file": {
                    "over_full": round(new_file / full, 3),
                    "tokens_over_full": round(of_file / of_full, 3),
                    "seconds": round(new_file, 1),
                },
                "new_checkpoint": {
                    "over_full": round(new_checkpoint / full, 3),
                    "tokens_over_full": round(of_checkpoint / of_full, 3),
                    "seconds": round(new_checkpoint, 1),
                },
                "full_s": round(full, 1),
                "full_tokens": of_full,
            }
        )


if __name__ == "__main__":
    main()
