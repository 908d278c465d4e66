"""attribute, of pairs: how much each node changes a metric, and how far the scores can be trusted.

A pair is a unit. A sample of its nodes, half of them those with the largest scores, is patched
exactly beside the method, and both are compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from bathyscope.attribution.nodes import (
    Latents,
    atp_star,
    attribution_patching,
    completeness_gap,
    contrast,
    every_layer,
    exact_patching,
    integrated_gradients,
)
from bathyscope.attribution.nodes.contrasts import Contrast, Scores
from bathyscope.attribution.nodes.missed import effects_of
from bathyscope.attribution.nodes.node_sets import NodeSet
from bathyscope.config import Config
from bathyscope.config.attribute import AttributeConfig
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError
from bathyscope.metrics.agreement import pearson, spearman, topk_recall
from bathyscope.models.load import LoadedModel
from bathyscope.models.tokenizers import load_tokenizer
from bathyscope.runs.run import ATTRIBUTIONS, DICTIONARIES, Run
from bathyscope.runs.tables import to_parquet
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.attribute import check_placement, in_float32, matching
from bathyscope.stages.inputs import model_folder
from bathyscope.stages.model import describe_model, load_whole
from bathyscope.stages.pairs import Pair, read_pairs, tokens_of
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.objects import Objects
from bathyscope.values import Json, Receipt, Unit, UnitPlan

NAME = "attribute_pairs"
SEMANTICS = 1
LATENTS = "latents"
_TOP = 10
_IDENTITY = ("method", "nodes", "metric", "align", "ig_steps", "trust_sample", "seed")


@dataclass
class Context:
    """The model, the dictionaries whose latents are nodes, and the pairs."""

    settings: AttributeConfig
    loaded: LoadedModel
    dictionaries: dict[str, AnyDictionary]
    pairs: list[Pair]
    objects: Objects
    segment: str


def units(config: Config) -> Work:
    """A unit for each pair. Every pair is tokenized here, so that what is wrong shows at once."""
    config = in_float32(config)
    check_placement(config)
    run, settings, pairs = Run(config.url), config.attribute, read_pairs(config)
    tokenizer = load_tokenizer(model_folder(config))
    model = describe_model(config)
    for pair in pairs:
        tokens = tokens_of(pair, tokenizer, settings)
        longest = model.shape.context_length
        if longest is not None and tokens.positions > longest:
            raise ConfigError(
                f"The pair {pair.id!r} has {tokens.positions} tokens, and the model was made for "
                f"at most {longest}. Give shorter prompts."
            )
    names = _names(config, run)
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "model": model.digest(config),
        "dtype": model.dtype_name,
        "pairs": [[p.id, p.clean, p.corrupted, p.answer, p.wrong] for p in pairs],
        "dictionaries": {
            name: run.manifest(f"{DICTIONARIES}/{name}").facts["weights_digest"] for name in names
        },
        **{key: getattr(settings, key) for key in _IDENTITY},
    }
    hint = "Choose another attribute.name to keep both, or pass force=true to replace it."
    plan = UnitPlan((("all", 0, len(pairs)),), 1)
    return Work(
        NAME, f"{ATTRIBUTIONS}/{settings.name}", identity, plan, unit_name="pairs", hint=hint
    )


def open(config: Config, work: Work) -> Context:
    """The model, whole, and the dictionaries on its device."""
    config = in_float32(config)
    run, loaded = Run(config.url), load_whole(config)
    names = _names(config, run)
    dictionaries = {name: run.dictionaries[name].to(loaded.input_device) for name in names}
    objects = Objects(config.url).at(work.artifact)
    return Context(
        config.attribute, loaded, dictionaries, read_pairs(config), objects, work.segment.name
    )


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Score the nodes of a pair, patch a sample of them, and store the table."""
    pair, settings, loaded = context.pairs[unit.start], context.settings, context.loaded
    tokens = tokens_of(pair, loaded.tokenizer, settings).to(loaded.input_device)
    problem = contrast(loaded.model, tokens, settings.metric, _node_sets(context))
    scores = _scored(problem, settings)
    guard.check()
    guard.progress(0.5, "exact patching of a sample")
    chosen = _sample(scores, settings)
    exact = effects_of(problem, torch.from_numpy(chosen))
    key = f"files.{context.segment}/{unit.index:06d}.parquet"
    guard.check()
    context.objects.put(key, to_parquet(_table(scores, chosen, exact.double().numpy())))
    figures: Json = {
        "pair": pair.id,
        "clean": pair.clean,
        "corrupted": pair.corrupted,
        "metric_clean": float(problem.clean_metric[0]),
        "metric_corrupted": float(problem.corrupted_metric[0]),
        "nodes": problem.num_nodes,
        "top": [vars(node) for node in scores.top(_TOP)],
        "trust": {
            **_trust(scores, chosen, exact.double().numpy()),
            "completeness_gap": _gap(problem, scores),
        },
        "key": key,
    }
    return Outcome(valid=1, figures=figures)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Put the figures of all pairs into one file and publish."""
    rows = [dict(receipts[index].figures) for index in sorted(receipts)]
    key = f"results.{begun.work.segment.name}.json"
    results = {"method": config.attribute.method, "pairs": rows}
    begun.objects.put(key, json.dumps(results, indent=1, allow_nan=False).encode())
    facts: Json = {"results_key": key, "pairs": len(rows)}
    publish(begun, facts)
    return facts


def _names(config: Config, run: Run) -> list[str]:
    """The dictionaries whose latents are nodes: none where latents are not asked for."""
    if LATENTS not in config.attribute.nodes:
        return []
    return matching(config, run, list(run.dictionaries))


def _node_sets(context: Context) -> list[NodeSet]:
    kinds = [kind for kind in context.settings.nodes if kind != LATENTS]
    sets: list[NodeSet] = list(every_layer(context.loaded.model, *kinds)) if kinds else []
    return sets + [Latents(dictionary) for dictionary in context.dictionaries.values()]  # type: ignore[arg-type]


def _scored(problem: Contrast, settings: AttributeConfig) -> Scores:
    if settings.method == "ig":
        return integrated_gradients(problem, steps=settings.ig_steps)
    if settings.method == "exact":
        return exact_patching(problem)
    return atp_star(problem) if settings.method == "atp_star" else attribution_patching(problem)


def _sample(scores: Scores, settings: AttributeConfig) -> np.ndarray:
    """Numbers of nodes: half those with the largest |scores|, half drawn from the others."""
    order = scores.flat().abs().sort(descending=True, stable=True).indices.cpu().numpy()
    half = settings.trust_sample // 2
    rest = np.random.default_rng(settings.seed).permutation(order[half:])
    return np.sort(np.concatenate([order[:half], rest[: settings.trust_sample - half]]))


def _trust(scores: Scores, chosen: np.ndarray, exact: np.ndarray) -> Json:
    found = scores.flat()[torch.from_numpy(chosen)].double().cpu().numpy()
    # AtP* has no sign.
    true = exact if scores.signed else np.abs(exact)

    def number(value: float) -> float | None:
        return None if value != value else value

    return {
        "sample": len(chosen),
        "pearson": number(pearson(true, found)),
        "spearman": number(spearman(true, found)),
        f"top{_TOP}_recall": number(topk_recall(true, found, _TOP)),
    }


def _gap(problem: Contrast, scores: Scores) -> float | None:
    """Largest |Σ of the scores of a place - what changing all of it does|, in the metric's unit.

    Only for integrated gradients, which promise that it is small.
    """
    if scores.method != "ig" or not problem.places:
        return None
    gaps = [completeness_gap(problem, scores, place) for place in problem.places]
    return float(torch.stack(gaps).abs().max())


def _table(scores: Scores, chosen: np.ndarray, exact: np.ndarray) -> pa.Table:
    columns: dict[str, list[Any]] = {k: [] for k in ("kind", "place", "position", "index")}
    for nodes in scores.contrast.nodes:
        table = nodes.table
        columns["kind"] += [nodes.kind] * len(table)
        columns["place"] += [nodes.place.name] * len(table)
        columns["position"] += table.position.tolist()
        columns["index"] += table.index.tolist()
    known = np.full(len(columns["kind"]), np.nan)
    known[chosen] = exact
    return pa.table(
        {
            **columns,
            "score": scores.flat().double().cpu().numpy(),
            "exact": pa.array(known, from_pandas=True),
        }
    )


def names_of_nodes(rows: Sequence[Json]) -> list[str]:
    """The top nodes of a pair as a person reads them: `heads.9 3`, `mlp_out.4 at 5`."""
    return [
        node["place"]
        + (f" {node['index']}" if node["index"] >= 0 else "")
        + (f" at {node['position']}" if node["position"] >= 0 else "")
        for node in rows
    ]
