#!/usr/bin/env python
"""Our harvest beside SAELens' runner that caches activations: same model, hook, tokens, machine.

    PEERS/bin/python tests/benchmarks/harvest_peer.py [data.train_tokens=40000]

Needs an environment with both (`sae-lens==6.54.12` and this package). SmolLM2 up to layer 9,
`resid_post.9`, sequences of 256 tokens in batches of 8. SAELens stores float32 as is its default
and cannot store bfloat16. `default` is what its users get: the whole checkpoint, and
rows that are shuffled before they are written, since they are read in order. `cut` is a checkpoint
that was cut to the needed layers by hand, and nothing is shuffled. Ours stores bfloat16 with
digests, moments and receipts, and shuffles when it reads. `bare` is our forward with nothing
stored. All have read their model, laid out their work and done all of it once before the clock
starts. Each runs in a process of its own; they take turns, in an order that rotates.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bathyscope.commands.run import run
from bathyscope.config import Config
from bathyscope.jobs.inline import Inline
from bathyscope.jobs.sink import Silent
from bathyscope.runs.run import ACTIVATIONS, Run
from bathyscope.stages import harvest
from bathyscope.stages.model import describe_model
from bench import arguments, conclude, configuration, folder

ROUNDS = 3
ROLE = "BATHYSCOPE_CONTENDER"
PEERS = {
    "default": ("whole", "float32"),
    "cut_float32": ("cut", "float32"),
}


def ten_layers(config: Config, to: Path) -> Path:
    """A checkpoint of the layers that are needed, in the dtype of the run."""
    facts = describe_model(config)
    model = AutoModelForCausalLM.from_pretrained(facts.folder, dtype=facts.dtype)
    model.model.layers = model.model.layers[: facts.hook(config.hook).layer + 1]
    model.config.num_hidden_layers = len(model.model.layers)
    model.save_pretrained(to)
    AutoTokenizer.from_pretrained(facts.folder).save_pretrained(to)
    return to


def whole(config: Config, to: Path) -> Path:
    """The checkpoint with all of its layers, in the dtype of the run."""
    facts = describe_model(config)
    AutoModelForCausalLM.from_pretrained(facts.folder, dtype=facts.dtype).save_pretrained(to)
    AutoTokenizer.from_pretrained(facts.folder).save_pretrained(to)
    return to


def tokens_as_dataset(config: Config) -> tuple[Any, int]:
    """The corpus as SAELens reads it, and how many tokens there are."""
    from datasets import Dataset

    corpus = Run(config.url).corpus
    tokens = corpus.tokens(0, corpus.num_items)
    tokens = tokens[: len(tokens) // 8 * 8]
    return Dataset.from_dict({"input_ids": tokens.tolist()}), tokens.numel()


def theirs(model: Path, data: Any, out: Path, tokens: int, dtype: str, *, shuffle: bool) -> float:
    """Tokens per second of SAELens' runner, its model loaded before."""
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

    runner = CacheActivationsRunner(
        CacheActivationsRunnerConfig(
            dataset_path="given",
            model_name=str(model),
            model_class_name="AutoModelForCausalLM",
            model_batch_size=8,
            hook_name="model.layers.9",
            d_in=576,
            training_tokens=tokens,
            context_size=256,
            new_cached_activations_path=str(out),
            shuffle=shuffle,
            dtype=dtype,
            prepend_bos=False,
            streaming=False,
            device="cpu",
            # It works in whole buffers: one that holds all tokens.
            buffer_size_gb=tokens * 576 * (4 if dtype == "float32" else 2) / 1e9,
            model_from_pretrained_kwargs={"dtype": torch.bfloat16},
        ),
        override_dataset=data,
    )
    started = time.perf_counter()
    stored = len(runner.run()) * 256
    return stored / (time.perf_counter() - started)


def bare(config: Config) -> float:
    """Tokens per second of our forward up to the hook point, with nothing stored."""
    context = harvest.open(config, harvest.units(config))
    tokens = Run(config.url).corpus.tokens(0, Run(config.url).corpus.num_items)
    tokens = tokens[: len(tokens) // 8 * 8]
    started = time.perf_counter()
    for _ in context.captures(iter(tokens.split(8))):
        pass
    return tokens.numel() / (time.perf_counter() - started)


def ours(config: Config) -> float:
    """Tokens per second of the harvest, its model loaded before."""
    work = harvest.units(config)
    context = harvest.open(config, work)
    stage: Any = SimpleNamespace(
        units=lambda _: work,
        open=lambda *_: context,
        run=harvest.run,
        finish=harvest.finish,
        LANES=harvest.LANES,
    )
    started = time.perf_counter()
    Inline(config).drive(stage, Silent())
    seconds = time.perf_counter() - started
    return Run(config.url).corpus.num_items * 256 / seconds


def measured(name: str, base: Path, config: Config) -> float:
    """Tokens per second of one contender in this process, at its second pass."""
    rate = 0.0
    for _ in range(2):
        if name == "bare":
            rate = bare(config)
        elif name == "ours":
            rate = ours(config)
        else:
            checkpoint, dtype = PEERS[name]
            data, tokens = tokens_as_dataset(config)
            shuffle = name == "default"
            rate = theirs(base / checkpoint, data, base / "cache", tokens, dtype, shuffle=shuffle)
        shutil.rmtree(base / "cache", ignore_errors=True)
        shutil.rmtree(Path(config.url) / ACTIVATIONS, ignore_errors=True)
    return rate


def in_a_process(name: str, base: Path, overrides: Sequence[str]) -> float:
    """The same in a process of its own: neither has the other's memory settings and threads."""
    words = [sys.executable, __file__, "--folder", str(base), *overrides]
    done = subprocess.run(
        words, env={**os.environ, ROLE: name}, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Every contender in turn, in an order that rotates."""
    given = arguments(__doc__)
    with folder(given.folder) as base:
        config = configuration(base / "run", "cluster=inline", *given.overrides)
        if ROLE in os.environ:
            print(measured(os.environ[ROLE], base, config))
            return
        run(config, stages=["corpus"])
        ten_layers(config, base / "cut")
        whole(config, base / "whole")
        names = ["bare", "ours", *PEERS]
        rates: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(ROUNDS):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                rates[name].append(in_a_process(name, base, given.overrides))
            print(f"turn {turn}", {k: round(v[-1]) for k, v in rates.items()}, flush=True)
    median = {name: statistics.median(one) for name, one in rates.items()}
    others = [name for name in names if name != "ours"]
    conclude(
        {
            "over_bare": round(median["ours"] / median["bare"], 3),
            **{f"over_saelens_{name}": round(median["ours"] / median[name], 3) for name in PEERS},
            "tokens_per_s": {name: round(rate) for name, rate in median.items()},
            "turns": {
                name: [round(o / r, 3) for o, r in zip(rates["ours"], rates[name], strict=True)]
                for name in others
            },
        }
    )


if __name__ == "__main__":
    main()
