#!/usr/bin/env python
"""Nights without end: whether memory, files and time of a night stay as they are.

    python tests/benchmarks/soak.py --folder /tmp/soak          goes on where it stopped
    python tests/benchmarks/soak.py --folder /tmp/soak --nights 40 --fresh 4

A tiny random model and ten short documents a night: most nights in one process, the last ones each
in a process of its own. Old nights are let go (nightly.keep_nights=10). Every night appends a line
with its seconds, the memory of the process and the number of files, so that a stop loses nothing.
The ratios are of the second half of the nights of one process over the first, by medians, without
the first 20 nights; memory is that of the process that made the last of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from bathyscope.commands.nightly import nightly
from bathyscope.commands.run import run as run_stages
from bathyscope.composition import compose
from bathyscope.config import Config
from bathyscope.corpora.documentation import documentation
from bench import conclude, folder

WARM = 20


def texts(cache: Path) -> list[str]:
    """Short pieces of real prose, each another one."""
    found = [d.text for d in documentation(["stdlib", "topics"], cache_folder=cache)]
    return [text[i : i + 500] for text in found for i in range(0, len(text), 500)]


def make_model(to: Path, prose: list[str]) -> None:
    """A random Llama of two blocks, with a tokenizer trained on the text."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(prose[:2000], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(to)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(to)


def write_text(to: Path, night: int, prose: list[str]) -> None:
    """Ten documents that no other night has."""
    pieces = prose[(night * 10) % len(prose) :][:10]
    lines = [json.dumps({"text": f"Night {night}. {piece}"}) for piece in pieces]
    (to / f"{night:05d}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def configuration(base: Path) -> Config:
    """Of every night."""
    config, _ = compose(
        [
            "model=folder", f"model.path={base / 'model'}", "model.dtype=float32", "data=jsonl",
            f"data.paths=[{base}/inbox/*.jsonl]", "data.sequence_length=32",
            "hooks.points=[resid_post.0]", "hooks.batch_items=4", f"dictionary.run={base / 'main'}",
            "nightly.settle_s=0", "nightly.keep_nights=10", "evaluate.splice_tokens=200",
            "evaluate.resamples=50", "describe.top_examples=3", "describe.sampled_examples=8",
            "cluster=inline", "cluster.threads=1", f"url={base / 'nights'}",
        ]
    )  # fmt: skip
    return config


def prepare(base: Path, prose: list[str]) -> None:
    """The model, and a dictionary trained on it."""
    if (base / "main" / "dictionaries").exists():
        return
    (base / "inbox").mkdir(parents=True, exist_ok=True)
    make_model(base / "model", prose)
    lines = "\n".join(json.dumps({"text": piece}) for piece in prose[-1500:])
    (base / "main.jsonl").write_text(lines, encoding="utf-8")
    config, _ = compose(
        [
            "model=folder", f"model.path={base / 'model'}", "model.dtype=float32", "data=jsonl",
            f"data.paths=[{base}/main.jsonl]", "data.sequence_length=32", "data.train_tokens=60000",
            "data.held_out_tokens=5000", "hooks.points=[resid_post.0]",
            "dictionary.num_latents=256", "dictionary.k=8", "train.batch_rows=512",
            "cluster=inline", "cluster.threads=1", f"url={base / 'main'}",
        ]
    )  # fmt: skip
    run_stages(config, stages=("corpus", "harvest", "train"))


def one(base: Path) -> dict[str, float]:
    """A night in this process, and what it took."""
    started = time.perf_counter()
    assert nightly(configuration(base), lambda text: None)
    seconds = time.perf_counter() - started
    files = sum(path.is_file() for path in (base / "nights").rglob("*"))
    return {"seconds": seconds, "rss": psutil.Process().memory_info().rss, "files": files}


def slope(values: list[float]) -> float:
    """Second half over first half, by medians."""
    half = len(values) // 2
    return float(np.median(values[half:]) / np.median(values[:half]))


def main() -> None:
    """Nights until there are enough, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where everything is kept")
    parser.add_argument("--nights", type=int, default=480, help="in one process")
    parser.add_argument("--fresh", type=int, default=20, help="each in a process of its own")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.folder)))
        return
    with folder(given.folder) as base:
        prose = texts(base)
        prepare(base, prose)
        log = base / "nights.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        for night in range(len(lines), given.nights + given.fresh):
            write_text(base / "inbox", night, prose)
            inline = night < given.nights
            if inline:
                found = one(base)
            else:
                words = [sys.executable, __file__, "--folder", str(base), "--one"]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
            found |= {"night": night, "inline": inline, "began_with": len(lines)}
            with log.open("a") as file:
                file.write(json.dumps(found) + "\n")
        told(base, [json.loads(line) for line in log.read_text().splitlines()])


def told(base: Path, lines: list[dict[str, float]]) -> None:
    """Medians of both halves, and what there is at the end."""
    # Memory is that of one process: nights before a stop were another's.
    last = max(line["began_with"] for line in lines)
    inline = [line for line in lines if line["inline"]]
    steady = inline[WARM:]
    same = [line["rss"] for line in steady if line["began_with"] == last] or [0.0, 0.0]
    fresh = [line for line in lines if not line["inline"]]
    size = sum(path.stat().st_size for path in (base / "nights").rglob("*") if path.is_file())
    conclude(
        {
            "nights": len(lines),
            "in_one_process": len(inline),
            "seconds": slope([line["seconds"] for line in steady]),
            "memory": slope(same),
            "files": slope([line["files"] for line in steady]),
            "median_seconds": round(float(np.median([x["seconds"] for x in steady])), 2),
            "median_seconds_fresh": round(float(np.median([x["seconds"] for x in fresh])), 2)
            if fresh
            else None,
            "memory_mb": [round(same[0] / 1e6), round(same[-1] / 1e6)],
            "files_at_the_end": lines[-1]["files"],
            "mb_at_the_end": round(size / 1e6, 1),
        }
    )


if __name__ == "__main__":
    main()
