#!/usr/bin/env python
"""The harvest's speed over that of a bare early-stopped forward of the same batches.

    python tests/benchmarks/harvest.py

The bare side is transformers alone: the model with its later layers and head cut off, called on
the same token batches, its output thrown away. Ours is the whole unit: tokens from the corpus,
hooks, bfloat16 rows, moments, shards, digests and receipt. The two take turns, unit by unit, so
that noise of the machine meets both.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from bathyscope.commands.run import run
from bathyscope.config import Config
from bathyscope.jobs.unit import do_unit, set_threads
from bathyscope.runs.corpus import Corpus
from bathyscope.runs.run import Run
from bathyscope.runs.work import begin
from bathyscope.stages import harvest
from bathyscope.stages.model import describe_model
from bathyscope.stores.objects import Objects
from bathyscope.values import Unit
from bench import arguments, conclude, configuration, folder


def bare_model(config: Config) -> nn.Module:
    """The plain model up to the hook point."""
    facts = describe_model(config)
    model = AutoModelForCausalLM.from_pretrained(facts.folder, dtype=facts.dtype).model
    model.layers = model.layers[: facts.hook(config.hook).layer + 1]
    model.norm = nn.Identity()
    return model.eval()


@torch.no_grad()
def bare_seconds(model: nn.Module, corpus: Corpus, unit: Unit, batch: int) -> float:
    """Seconds of the forwards of a unit."""
    tokens = corpus.tokens(unit.start, unit.stop)
    started = time.perf_counter()
    for part in tokens.split(batch):
        model(part, use_cache=False)
    return time.perf_counter() - started


def main() -> None:
    """Take turns over all full units of the training split."""
    given = arguments(__doc__)
    with folder(given.folder) as base:
        config = configuration(base / "run", "cluster=inline", *given.overrides)
        run(config, stages=["corpus"])
        set_threads(config.cluster.threads)
        begun = begin(Objects(config.url), harvest.units(config), force=False)
        context = harvest.open(config, begun.work)
        corpus, bare = Run(config.url).corpus, bare_model(config)
        full = [u for u in begun.remaining if u.num_items == begun.work.plan.items_per_unit]
        ratios, tokens, ours_s, bare_s = [], 0, 0.0, 0.0
        for unit in full:
            plain = bare_seconds(bare, corpus, unit, config.hooks.batch_items)
            started = time.perf_counter()
            do_unit(
                harvest,
                unit,
                context=context,
                work=begun.work,
                objects=begun.objects,
                lease_s=config.store.lease_s,
                report=lambda fraction, text: None,
            )
            ours = time.perf_counter() - started
            if unit is full[0]:
                continue  # both warm up on the first unit
            count = unit.num_items * corpus.sequence_length
            tokens, ours_s, bare_s = tokens + count, ours_s + ours, bare_s + plain
            ratios.append(plain / ours)
            print(
                f"unit {unit.index}: bare {count / plain:,.0f}  ours {count / ours:,.0f} tokens/s"
                f"  ratio {plain / ours:.3f}"
            )
    conclude(
        {
            "over_bare_forward": round(statistics.median(ratios), 4),
            "spread": [round(min(ratios), 4), round(max(ratios), 4)],
            "tokens_per_s": round(tokens / ours_s),
            "bare_tokens_per_s": round(tokens / bare_s),
            "units": len(ratios),
        }
    )


if __name__ == "__main__":
    main()
