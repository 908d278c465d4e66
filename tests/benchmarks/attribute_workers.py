#!/usr/bin/env python
"""Graphs of eight prompts by two Ray workers over one, beside bare processes.

    python tests/benchmarks/attribute_workers.py [--folder FOLDER]

SmolLM2-135M with transcoders of three layers, trained here for a minute, and prompts of the same
length from the documentation. Each worker and each process has one thread. Ours is the time from
the first prompt that is begun to the last that is done, without the start of Ray. A bare process
calls `attribution_graph`, `prune` and `graph_trust` on its share of the prompts. The numbers of one
and of two workers are compared.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from bathyscope.attribution.graphs.build import attribution_graph
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.prune import prune
from bathyscope.attribution.graphs.trust import graph_trust
from bathyscope.config import Config
from bathyscope.jobs.cluster import Cluster
from bathyscope.jobs.sink import Silent
from bathyscope.runs.run import Run
from bathyscope.stages import attribute
from bathyscope.stages.attribute import graph_settings
from bathyscope.stores.objects import Objects
from bench import arguments, command, conclude, configuration, folder

LAYERS = (5, 12, 20)
PROMPTS, LENGTH = 8, 16


def prepared(base: Path) -> list[str]:
    """The settings of a run with transcoders, trained in it."""
    points = ",".join(f"{kind}.{layer}" for kind in ("mlp_in", "mlp_out") for layer in LAYERS)
    given = [
        f"hooks.points=[{points}]", "dictionary=transcoder", "dictionary.num_latents=2304",
        "data.train_tokens=20000", "data.held_out_tokens=6000", "train.epochs=3",
        "logging=none",
    ]  # fmt: skip
    import subprocess

    words = ["sweep", "experiment=smoke", f"url={base / 'run'}", "cluster=inline",
             f"dictionary.layer={','.join(map(str, LAYERS))}", "sweep.evaluate=false",
             "data.packages=[stdlib]", *given]  # fmt: skip
    subprocess.run(command(*words), check=True)
    return [*given, f"dictionary.layer={LAYERS[0]}"]


def texts(config: Config) -> list[str]:
    """Prompts of one length, the first tokens of held-out sequences."""
    run = Run(config.url)
    from bathyscope.models.tokenizers import load_tokenizer
    from bathyscope.stages.inputs import model_folder

    tokenizer = load_tokenizer(model_folder(config))
    found: list[str] = []
    held_out = run.corpus.split_range("held_out")
    for item in range(held_out.start, held_out.stop):
        tokens = run.corpus.tokens(item, item + 1)[0].tolist()
        for first in range(5, len(tokens) - LENGTH, LENGTH):
            text = tokenizer.decode(tokens[first : first + LENGTH])
            if len(tokenizer(text, add_special_tokens=False)["input_ids"]) == LENGTH:
                found.append(text)
    return found[:PROMPTS]


def ours(config: Config, name: str, workers: int) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of all prompts with so many workers, and their figures without seconds."""
    from dataclasses import replace

    config = replace(
        config,
        attribute=replace(config.attribute, name=name),
        cluster=replace(
            config.cluster, kind="local", workers=workers, min_workers=workers, threads=1
        ),
    )
    cluster = Cluster(config)
    try:
        cluster.drive(attribute, Silent())
    finally:
        cluster.close()
    run = Run(config.url)
    facts = run.manifest(f"graphs/{name}").facts
    objects = Objects(config.url).at(f"graphs/{name}")
    rows = run.graphs(name)["prompts"]
    times = [
        json.loads(objects.get(f"{facts['files_folder']}/history/{row['slug']}.json"))
        for row in rows
    ]
    seconds = max(t["finished"] for t in times) - min(t["started"] for t in times)
    return seconds, [{k: v for k, v in row.items() if k not in ("seconds", "slug")} for row in rows]


def _bare(config: Config, share: tuple[int, int], together: Barrier, told: Any) -> None:
    torch.set_num_threads(1)
    context = attribute.open(config, attribute.units(config))
    together.wait()
    started = time.perf_counter()
    for prompt in context.prompts[share[0] :: share[1]]:
        found = attribution_graph(
            context.loaded.model, context.dictionaries, torch.tensor(prompt.tokens),
            settings=graph_settings(context.config, prompt),
        )  # fmt: skip
        pruned = prune(found.graph, order=order_of(found.graph))
        graph_trust(
            context.loaded.model, found, pruned.influence.nodes,
            sample=config.attribute.trust_sample, batch=config.attribute.trust_batch,
        )  # fmt: skip
    told.put((started, time.perf_counter()))


def bare(config: Config, processes: int) -> float:
    """Seconds of so many processes that share the prompts."""
    context = multiprocessing.get_context("spawn")
    together, told = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=_bare, args=(config, (n, processes), together, told))
        for n in range(processes)
    ]
    for process in started:
        process.start()
    times = [told.get() for _ in started]
    for process in started:
        process.join()
    return max(end for _, end in times) - min(begin for begin, _ in times)


def main() -> None:
    """One, two, and their ratio, on both sides."""
    given = arguments(__doc__)
    with folder(given.folder) as base:
        settings = prepared(base)
        config = configuration(base / "run", *settings, *given.overrides)
        config.attribute.prompts = texts(config)
        seconds, rows = {}, {}
        for count in (1, 2):
            seconds[f"bare_{count}"] = bare(config, count)
            seconds[f"ours_{count}"], rows[count] = ours(config, f"workers-{count}", count)
            print({name: round(value, 1) for name, value in seconds.items()}, flush=True)
    ours_up = seconds["ours_1"] / seconds["ours_2"]
    bare_up = seconds["bare_1"] / seconds["bare_2"]
    conclude(
        {
            "over_bare": round(ours_up / bare_up, 3),
            "ours_speed_up": round(ours_up, 3),
            "bare_speed_up": round(bare_up, 3),
            "same_numbers": rows[1] == rows[2],
            **{f"{name}_s": round(value, 1) for name, value in seconds.items()},
        }
    )


if __name__ == "__main__":
    main()
