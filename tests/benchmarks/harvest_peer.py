#!/usr/bin/env python
"""Our harvest beside SAELens' runner that caches activations: same model, hook, tokens, machine.

    PEERS/bin/python tests/benchmarks/harvest_peer.py [data.train_tokens=40000]

Needs an environment with both (`sae-lens==6.54.12` and this package). SmolLM2 up to layer 9,
`resid_post.9`, sequences of 256 tokens in batches of 8. SAELens gets a checkpoint of these layers,
so that it does not run the others; it still makes logits, and stores float32 as is its default,
or float16; it cannot store bfloat16. Ours stores bfloat16 with digests, moments and receipts, and
its planning, a second or two, is counted. The two take turns.
"""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
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


def ten_layers(config: Config, to: Path) -> Path:
    """A checkpoint of the layers that are needed, in the dtype of the run."""
    facts = describe_model(config)
    model = AutoModelForCausalLM.from_pretrained(facts.folder, dtype=facts.dtype)
    model.model.layers = model.model.layers[: facts.hook(config.hook).layer + 1]
    model.config.num_hidden_layers = len(model.model.layers)
    model.save_pretrained(to)
    AutoTokenizer.from_pretrained(facts.folder).save_pretrained(to)
    return to


def tokens_as_dataset(config: Config) -> tuple[Any, int]:
    """The corpus as SAELens reads it, and how many tokens there are."""
    from datasets import Dataset

    corpus = Run(config.url).corpus
    tokens = corpus.tokens(0, corpus.num_items)
    tokens = tokens[: len(tokens) // 8 * 8]
    return Dataset.from_dict({"input_ids": tokens.tolist()}), tokens.numel()


def theirs(model: Path, data: Any, out: Path, tokens: int, dtype: str) -> float:
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
            shuffle=False,
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


def ours(config: Config) -> float:
    """Seconds of the harvest, its model loaded before."""
    work = harvest.units(config)
    context = harvest.open(config, work)
    opened, harvest.open = harvest.open, lambda *_: context
    try:
        started = time.perf_counter()
        Inline(config).drive(harvest, Silent())
        return time.perf_counter() - started
    finally:
        harvest.open = opened


def main() -> None:
    """Take turns; the first turn of each warms up."""
    given = arguments(__doc__)
    with folder(given.folder) as base:
        config = configuration(base / "run", "cluster=inline", *given.overrides)
        run(config, stages=["corpus"])
        model = ten_layers(config, base / "model")
        data, tokens = tokens_as_dataset(config)
        rates: dict[str, list[float]] = {"ours": [], "float32": [], "float16": []}
        for turn in range(ROUNDS + 1):
            for dtype in ("float32", "float16"):
                rates[dtype].append(theirs(model, data, base / "cache", tokens, dtype))
                shutil.rmtree(base / "cache")
            all_tokens = Run(config.url).corpus.num_items * 256
            rates["ours"].append(all_tokens / ours(config))
            shutil.rmtree(Path(config.url) / ACTIVATIONS)
            print(f"turn {turn}", {k: round(v[-1]) for k, v in rates.items()}, flush=True)
    median = {name: statistics.median(one[1:]) for name, one in rates.items()}
    conclude(
        {
            "over_saelens_float32": round(median["ours"] / median["float32"], 3),
            "over_saelens_float16": round(median["ours"] / median["float16"], 3),
            "ours_tokens_per_s": round(median["ours"]),
            "saelens_float32_tokens_per_s": round(median["float32"]),
            "saelens_float16_tokens_per_s": round(median["float16"]),
        }
    )


if __name__ == "__main__":
    main()
