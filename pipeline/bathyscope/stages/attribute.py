"""attribute: the attribution graph of each prompt, with what it can be trusted for.

A prompt is a unit, so workers share prompts and an interrupted command goes on.
"""

from __future__ import annotations

import fnmatch
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bathyscope.attribution.graphs.build import (
    AttributionGraph,
    GraphSettings,
    Prepared,
    assembled,
    prepared,
    refined,
)
from bathyscope.attribution.graphs.columns import places_of
from bathyscope.attribution.graphs.order import Order, order_of
from bathyscope.attribution.graphs.prune import Pruned, prune
from bathyscope.attribution.graphs.trust import graph_trust
from bathyscope.config import AttributeConfig, Config
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError
from bathyscope.models.load import LoadedModel
from bathyscope.runs.run import DICTIONARIES, GRAPH_ROWS, GRAPHS, Run
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.graph_figures import DEFINITIONS, figures_of
from bathyscope.stages.graph_output import Made, Origin, close, folder_of, write_graph
from bathyscope.stages.graph_pieces import pieces_of
from bathyscope.stages.model import describe_model, load_whole
from bathyscope.stages.prompts import Prompt, check_lengths, read_prompts
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.objects import Objects
from bathyscope.values import Json, Receipt, Unit, UnitPlan

NAME = "attribute"
SEMANTICS = 1
TRANSCODERS = ("transcoder", "skip_transcoder", "cross_layer_transcoder")
_NOT_IDENTITY = (
    "name", "prompts", "text_key", "dictionaries", "parts", "memory_bytes", "spool", "trust_batch",
    "most_frozen_error", "least_pearson", "pairs", "method", "nodes", "metric", "align", "ig_steps",
)  # fmt: skip
"""What graphs do not depend on, or what the identity has in another form."""


@dataclass
class Context:
    """The model, its transcoders, and the prompts."""

    config: Config
    loaded: LoadedModel
    dictionaries: dict[str, AnyDictionary]
    prompts: list[Prompt]
    objects: Objects
    segment: str
    identity: Json

    @property
    def origin(self) -> Origin:
        """What files say of where a graph comes from."""
        model = self.config.model
        name = model.repo or model.path or model.kind
        run = Run(self.config.url)
        return Origin(run, name, self.loaded.tokenizer, self.identity, self.config.attribute)


def in_float32(config: Config) -> Config:
    """The same, in float32 where nothing else is asked for: rows then add up to seven digits."""
    if config.model.dtype != "auto":
        return config
    return replace(config, model=replace(config.model, dtype="float32"))


def names_of(config: Config, run: Run) -> list[str]:
    """The transcoders of the run that are meant. Raises `ConfigError` where there are none."""
    names = [name for name in run.dictionaries if _is_transcoder(run, name)]
    named = names if not config.attribute.dictionaries else run.dictionaries
    return matching(config, run, named, "transcoders")


def matching(
    config: Config, run: Run, names: Iterable[str], kind: str = "dictionaries"
) -> list[str]:
    """Of these dictionaries those that are asked for. Raises `ConfigError` where none is left."""
    wanted = config.attribute.dictionaries
    found = [n for n in names if not wanted or any(fnmatch.fnmatchcase(n, p) for p in wanted)]
    if not found:
        asked = f"None is called {', '.join(wanted)}. " if wanted else ""
        raise ConfigError(
            f"{run.url} has no {kind} to attribute with. {asked}It has: "
            f"{', '.join(run.dictionaries) or 'no dictionary'}. Train some, as "
            "docs/attribution.md shows."
        )
    return found


def units(config: Config) -> Work:
    """A unit for each prompt, identified by the model, the dictionaries and the settings.

    Raises `ConfigError` for weights that are to be offloaded, and what `read_prompts` and
    `names_of` raise.
    """
    config = in_float32(config)
    check_placement(config)
    run = Run(config.url)
    prompts, names = read_prompts(config), names_of(config, run)
    model = describe_model(config)
    check_lengths(prompts, model.shape.context_length)
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "model": model.digest(config),
        "dtype": model.dtype_name,
        "prompts": [[p.id, list(p.tokens), list(p.logits)] for p in prompts],
        "dictionaries": {
            name: run.manifest(f"{DICTIONARIES}/{name}").facts["weights_digest"] for name in names
        },
        **{k: v for k, v in vars(config.attribute).items() if k not in _NOT_IDENTITY},
    }
    plan = UnitPlan((("all", 0, len(prompts)),), 1)
    return Work(
        NAME,
        f"{GRAPHS}/{config.attribute.name}",
        identity,
        plan,
        unit_name="prompts",
        hint="Choose another attribute.name to keep both, or pass force=true to replace it.",
    )


def check_placement(config: Config) -> None:
    """Raise `ConfigError` for weights that are to be offloaded: gradients need all of them."""
    if config.model.offload_folder is not None or "cpu" in config.model.max_memory:
        raise ConfigError(
            "Weights may be offloaded (model.offload_folder or model.max_memory.cpu), and "
            "attribution takes gradients through all of them. Leave both out, and spread the model "
            "over more GPUs with model.device_map=auto."
        )


def open(config: Config, work: Work) -> Context:
    """The model, whole, and the dictionaries on its device."""
    config = in_float32(config)
    run, loaded = Run(config.url), load_whole(config)
    dictionaries = {
        name: run.dictionaries[name].to(loaded.input_device) for name in names_of(config, run)
    }
    objects = Objects(config.url).at(work.artifact)
    prompts = read_prompts(config)
    return Context(config, loaded, dictionaries, prompts, objects, work.segment.name, work.identity)


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Make, prune and check the graph of a prompt, and write its files."""
    prompt, settings = context.prompts[unit.start], context.config.attribute
    model = context.loaded.model
    started = time.time()
    made, found = _graph(unit, context, guard)
    guard.check()
    found, order, pruned = _pruned(made, found, settings)
    figures: Json = {
        "prompt": prompt.id,
        "text": prompt.text,
        "tokens": len(prompt.tokens),
        **figures_of(found, pruned, order),
    }
    if settings.trust_sample:
        guard.progress(0.85, "trust")
        trust = graph_trust(
            model,
            found,
            pruned.influence.nodes,
            sample=settings.trust_sample,
            batch=settings.trust_batch,
            seed=settings.seed,
            check=guard.check,
        )
        figures["trust"] = trust.to_json()
    guard.check()
    places = places_of(model, found.nodes)
    record = Made(prompt, found, pruned, order, places, figures, started)
    slug = write_graph(context.objects, context.segment, record, context.origin)
    return Outcome(valid=1, figures={**figures, "slug": slug})


def _pruned(
    made: Prepared, found: AttributionGraph, settings: AttributeConfig
) -> tuple[AttributionGraph, Order, Pruned]:
    """The graph, its order and what pruning leaves; of a truncated one after it is refined."""
    order = order_of(found.graph)
    shares = (settings.node_threshold, settings.edge_threshold)
    pruned = prune(found.graph, node_threshold=shares[0], edge_threshold=shares[1], order=order)
    if found.graph.dropped is None:
        return found, order, pruned
    found = refined(made, found, order, pruned, shares[0])
    order = order_of(found.graph)
    pruned = prune(found.graph, node_threshold=shares[0], edge_threshold=shares[1], order=order)
    return found, order, pruned


def _graph(unit: Unit, context: Context, guard: Guard) -> tuple[Prepared, AttributionGraph]:
    """The graph of a prompt: made here, or of the rows that several workers have made."""
    prompt, parts = context.prompts[unit.start], context.config.attribute.parts
    tokens = torch.tensor(prompt.tokens, device=context.loaded.input_device)
    settings = graph_settings(context.config, prompt)
    model, dictionaries = context.loaded.model, context.dictionaries

    def progress(done: float) -> None:
        guard.progress(0.8 * done, "rows")

    if parts == 1:
        made = prepared(model, dictionaries, tokens, settings=settings)
        return made, assembled(made, [made.piece(made.targets, progress=progress)])
    rows = f"{GRAPH_ROWS}/{context.config.attribute.name}"
    run = Run(context.config.url)
    keys = run.manifest(rows).facts["keys"][unit.start * parts : (unit.start + 1) * parts]
    pieces, chosen = pieces_of(run.objects.at(rows), keys)
    made = prepared(model, dictionaries, tokens, settings=settings, chosen=chosen)
    return made, assembled(made, pieces)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Put the figures of all prompts into one table and publish."""
    rows = [dict(receipts[index].figures) for index in sorted(receipts)]
    segment = begun.work.segment.name
    histories = close(begun.objects, segment, [row["slug"] for row in rows])
    for row, history in zip(rows, histories, strict=True):
        row["seconds"] = round(history["finished"] - history["started"], 2)
    key = f"results.{segment}.json"
    begun.objects.put(key, _json({"prompts": rows, "definitions": DEFINITIONS}))
    facts: Json = {
        "results_key": key,
        "prompts": len(rows),
        "files_folder": folder_of(segment),
    }
    publish(begun, facts)
    run, rows_folder = Run(config.url), f"{GRAPH_ROWS}/{config.attribute.name}"
    run.objects.delete_folder(rows_folder)
    run.objects.sweep(rows_folder)
    return facts


def _json(value: Json) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


def _is_transcoder(run: Run, name: str) -> bool:
    facts = run.manifest(f"{DICTIONARIES}/{name}").facts
    described = json.loads(run.objects.at(f"{DICTIONARIES}/{name}").get(facts["config_key"]))
    return bool(described["kind"] in TRANSCODERS)


def graph_settings(config: Config, prompt: Prompt) -> GraphSettings:
    """What of a prompt becomes a graph."""
    settings = config.attribute
    return GraphSettings(
        logit_tokens=prompt.logits,
        logit_probability=settings.logit_probability,
        most_logits=settings.most_logits,
        most_latents=settings.most_latents,
        row_share=None if settings.row_share == 1 else settings.row_share,
        memory_bytes=settings.memory_bytes,
        spool=None if settings.spool is None else Path(settings.spool),
    )
