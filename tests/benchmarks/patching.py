#!/usr/bin/env python
"""AtP, AtP*, integrated gradients and EAP-IG against exact patching, and IG against captum's.

    python tests/benchmarks/patching.py --ladder runs/ladder/ladder/llama-1.07M-seed0/final

On SmolLM2-135M sixteen pairs of prompts of equal length, such as "The capital of France is" and
"The capital of Italy is"; on the model of a ladder sixteen random sequences that repeat, of which
the corrupted one lacks the token that is due again. The metric is the logit difference of the two
answers. A random sample of a thousand nodes of each kind is patched exactly, or all where they are
fewer, and the scores of all these in all pairs are compared. AtP* has no signs and is compared with
absolute effects. Edges that are patched are a random sample and the largest of EAP and EAP-IG.
Recall is that of the 32 largest effects; CPU seconds on one thread are those of a method for all
nodes, and of exact patching for the sample.

captum needs matplotlib; without it that line is left out. Results are appended to
FOLDER/patching.jsonl as they come (`--folder FOLDER`); the script goes on from there.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bathyscope.attribution.nodes import (
    Contrast,
    EdgeScores,
    Pairs,
    Positions,
    Scores,
    atp_star,
    attribution_patching,
    contrast,
    edge_attribution,
    every_layer,
    exact_edges,
    integrated_gradients,
)
from bathyscope.attribution.nodes.missed import effects_of
from bathyscope.metrics.agreement import pearson, spearman, topk_recall
from bathyscope.models.load import LoadedModel, load_model
from bathyscope.models.sources import local_folder
from bench import conclude, folder

PROMPTS = [
    ("The capital of France is", "The capital of Italy is", " Paris", " Rome"),
    ("The capital of Germany is", "The capital of Spain is", " Berlin", " Madrid"),
    ("The capital of Japan is", "The capital of China is", " Tokyo", " Beijing"),
    ("The capital of Russia is", "The capital of England is", " Moscow", " London"),
    ("The opposite of hot is", "The opposite of good is", " cold", " bad"),
    ("The opposite of black is", "The opposite of big is", " white", " small"),
    ("The sun rises in the", "The sun sets in the", " east", " west"),
    ("In summer the weather is", "In winter the weather is", " hot", " cold"),
    ("red blue red blue red", "red green red green red", " blue", " green"),
    ("The keys to the old cabinet", "The key to the old cabinet", " are", " is"),
    ("The pictures on the white wall", "The picture on the white wall", " are", " is"),
    ("The boys near the tall girl", "The boy near the tall girl", " were", " was"),
    ("The authors of the long book", "The author of the long book", " have", " has"),
    ("The color of the sky is", "The color of the grass is", " blue", " green"),
    (
        "When Mary and John went to the store, John gave a drink to",
        "When Mary and John went to the store, Mary gave a drink to", " Mary", " John",
    ),
    (
        "When Tom and Anna went to the park, Anna gave the ball to",
        "When Tom and Anna went to the park, Tom gave the ball to", " Tom", " Anna",
    ),
]  # fmt: skip
KINDS = {
    "heads": ("heads",), "mlps and attentions": ("mlps", "attentions"), "queries": ("queries",),
    "keys": ("keys",), "values": ("values",),
}  # fmt: skip
METHODS: dict[str, Callable[[Contrast], Scores]] = {
    "AtP": attribution_patching,
    # Half of AtP*, and only for queries and keys something else than AtP.
    "AtP, softmax recomputed": partial(atp_star, grad_drop=False),
    "AtP*": atp_star,
    "IG, 4 steps": partial(integrated_gradients, steps=4),
}
TOP, SAMPLE, EDGES = 32, 1000, 60


class Results:
    """What was measured, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.found: dict[str, dict[str, Any]] = {json.loads(n)["key"]: json.loads(n) for n in lines}

    def add(self, key: str, result: dict[str, Any]) -> None:
        self.found[key] = {"key": key, **result}
        with self._path.open("a") as file:
            file.write(json.dumps(self.found[key]) + "\n")


def english(loaded: LoadedModel) -> list[Pairs]:
    """The prompts, those of one length together."""
    groups = []
    by_length = sorted(PROMPTS, key=lambda p: len(loaded.tokenizer.encode(p[0])))
    for _, some in itertools.groupby(by_length, lambda p: len(loaded.tokenizer.encode(p[0]))):
        clean, corrupted, answers, wrong = zip(*some, strict=True)
        groups.append(
            Pairs.of_texts(loaded.tokenizer, clean, corrupted, answers=answers, wrong=wrong)
        )
    return groups


def repeats(loaded: LoadedModel) -> list[Pairs]:
    """Ten random tokens and the first six of them again; the seventh is due."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(loaded.config.vocab_size)
    once = torch.stack(
        [torch.randperm(vocabulary - 300, generator=generator)[:11] for _ in range(16)]
    )
    once += 300
    clean = torch.cat([once[:, :10], once[:, :6]], 1)
    corrupted = clean.clone()
    corrupted[:, 6] = once[:, 10]
    answers, wrong = clean[:, 6].tolist(), corrupted[:, 6].tolist()
    return [Pairs.of_tokens(clean.tolist(), corrupted.tolist(), answers=answers, wrong=wrong)]


def compared(true: Tensor, found: Tensor, *, signed: bool, seconds: float) -> dict[str, Any]:
    true = true if signed else true.abs()
    return {
        "nodes": len(true), "pearson": pearson(true, found), "spearman": spearman(true, found),
        "recall": topk_recall(true, found, TOP), "seconds": seconds,
    }  # fmt: skip


def measure_nodes(
    name: str, loaded: LoadedModel, groups: list[Pairs], results: Results, *, costly: bool
) -> None:
    """Compare the methods that are costly, or the others."""
    for kind, kinds in KINDS.items():
        if kind == "values" and name == "SmolLM2":
            # Linear in all but what follows, as heads are; minutes are saved.
            continue
        methods = [
            method
            for method in METHODS
            if method.startswith("IG") == costly
            and (kind in ("queries", "keys") or method != "AtP, softmax recomputed")
            and f"{name}, {kind}, {method}" not in results.found
        ]
        if not methods:
            continue
        problems = [
            contrast(loaded.model, pairs, "logit_difference", every_layer(loaded.model, *kinds))
            for pairs in groups
        ]
        chosen = [sampled(problem, SAMPLE // len(groups)) for problem in problems]
        true = exact(f"{name}, {kind}, exact", problems, chosen, results)
        for method in methods:
            start = time.process_time()
            scores = [METHODS[method](problem) for problem in problems]
            seconds = time.process_time() - start
            found = torch.cat([s.flat()[c] for s, c in zip(scores, chosen, strict=True)])
            effects = torch.tensor(true["effects"])
            result = compared(effects, found, signed=scores[0].signed, seconds=seconds)
            result |= {"exact_seconds": true["seconds"], "all": sum(p.num_nodes for p in problems)}
            results.add(f"{name}, {kind}, {method}", result)
            show(f"{name}, {kind}, {method}", results)


def exact(
    key: str, problems: list[Contrast], chosen: list[Tensor], results: Results
) -> dict[str, Any]:
    """The exact effects of the chosen nodes, kept for when the script goes on."""
    if key not in results.found:
        start = time.process_time()
        true = torch.cat([effects_of(p, c) for p, c in zip(problems, chosen, strict=True)])
        seconds = time.process_time() - start
        results.add(key, {"effects": true.tolist(), "seconds": seconds})
    return results.found[key]


def sampled(problem: Contrast, most: int) -> Tensor:
    """A random sample of the nodes; all, where they are not so many."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(problem.num_nodes, generator=generator)[:most].sort().values


def measure_edges(name: str, loaded: LoadedModel, groups: list[Pairs], results: Results) -> None:
    methods = {"EAP": 0, "EAP-IG, 5 steps": 5}
    if all(f"{name}, edges, {method}" in results.found for method in methods):
        return
    found: dict[str, list[EdgeScores]] = {}
    seconds: dict[str, float] = {}
    for method, steps in methods.items():
        start = time.process_time()
        found[method] = [
            edge_attribution(loaded.model, pairs, "logit_difference", steps=steps)
            for pairs in groups
        ]
        seconds[method] = time.process_time() - start
    picks = picked_edges(list(found.values()))
    first = next(iter(found.values()))
    parts = first[0].components
    edges = [(parts.writers[w], parts.readers[r]) for w, r in picks.tolist()]
    start = time.process_time()
    true = torch.cat([exact_edges(scores, edges) for scores in first]).flatten()
    exact_seconds = time.process_time() - start
    for method, scores in found.items():
        values = torch.cat([s.values[:, picks[:, 0], picks[:, 1]] for s in scores]).flatten()
        result = compared(true, values, signed=True, seconds=seconds[method])
        total = int(first[0].exists.sum()) * sum(map(len, groups))
        results.add(
            f"{name}, edges, {method}", result | {"exact_seconds": exact_seconds, "all": total}
        )
        show(f"{name}, edges, {method}", results)


def picked_edges(methods: list[list[EdgeScores]]) -> Tensor:
    """A random sample of edges, and the largest of each method, [edges, 2]."""
    exists = methods[0][0].exists
    everything = exists.nonzero()
    generator = torch.Generator().manual_seed(0)
    chosen = [everything[torch.randperm(len(everything), generator=generator)[:EDGES]]]
    for scores in methods:
        size = torch.cat([s.values for s in scores]).abs().mean(0)
        order = size.flatten().sort(descending=True).indices[: EDGES // 2]
        chosen.append(torch.stack([order // size.shape[1], order % size.shape[1]], 1))
    return torch.unique(torch.cat(chosen), dim=0)


def captum_gap(loaded: LoadedModel, pairs: Pairs) -> float:
    """The largest difference between our IG and captum's at the MLP in the middle."""
    from captum.attr import LayerIntegratedGradients

    model, layer = loaded.model, int(loaded.config.num_hidden_layers) // 2
    problem = contrast(model, pairs, "logit_difference", [Positions(place=f"mlp_out.{layer}")])
    ours = integrated_gradients(problem, steps=16).flat()
    assert isinstance(pairs.clean, dict)
    assert isinstance(pairs.corrupted, dict)

    def forward(tokens: Tensor) -> Tensor:
        logits = model(input_ids=tokens, use_cache=False).logits
        return torch.cat([problem.metric(part) for part in logits.split(len(pairs))])

    method = LayerIntegratedGradients(forward, model.get_submodule(problem.places[0].path))
    # What passes beside the layer belongs to captum's input, so it takes the path backwards.
    theirs = -method.attribute(
        pairs.clean["input_ids"], baselines=pairs.corrupted["input_ids"], n_steps=16,
        method="riemann_middle",
    )  # fmt: skip
    return float((ours - theirs.sum(-1).flatten()).abs().max())


def show(key: str, results: Results) -> None:
    r = results.found[key]
    if "effects" in r:
        return
    if "gap" in r:
        print(f"{key:42s} largest difference {r['gap']:.1e}", flush=True)
        return
    print(
        f"{key:42s} {r['nodes']:5d} of {r['all']:7d} patched: Pearson {r['pearson']:.3f}, "
        f"Spearman {r['spearman']:.3f}, recall {r['recall']:.2f}; {r['seconds']:.1f} s, exact "
        f"{r['exact_seconds']:.1f} s",
        flush=True,
    )


def models(ladder: Path | None) -> Iterator[tuple[str, LoadedModel, list[Pairs]]]:
    if ladder is not None:
        loaded = load_model(ladder, dtype=torch.float32)
        yield "ladder", loaded, repeats(loaded)
    cache = Path.home() / ".cache" / "bathyscope"
    loaded = load_model(local_folder("smollm2_135m", {}, cache), dtype=torch.float32)
    yield "SmolLM2", loaded, english(loaded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ladder", type=Path, help="folder of a model of a ladder")
    parser.add_argument("--folder", type=Path, help="where results are kept")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with folder(given.folder) as kept:
        results = Results(kept / "patching.jsonl")
        for key in results.found:
            show(key, results)
        for name, loaded, groups in models(given.ladder):
            measure_nodes(name, loaded, groups, results, costly=False)
            measure_edges(name, loaded, groups, results)
            key = f"{name}, IG beside captum's"
            if key not in results.found and importlib.util.find_spec("matplotlib") is not None:
                results.add(key, {"gap": max(captum_gap(loaded, pairs) for pairs in groups)})
                show(key, results)
            measure_nodes(name, loaded, groups, results, costly=True)
        conclude({key: r for key, r in results.found.items() if "effects" not in r})


if __name__ == "__main__":
    main()
