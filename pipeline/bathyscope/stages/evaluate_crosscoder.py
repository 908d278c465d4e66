"""evaluate, of a crosscoder: FVU per hook point, and which latents are exclusive to one.

One unit over all held-out items, and as many training items beside them. What a spliced model loses
is not measured: a crosscoder's reconstruction belongs to several places of it at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.dictionaries.crosscoder import Crosscoder
from bathyscope.evaluation.latent_scaling import (
    LARGEST_ERROR,
    LARGEST_RECONSTRUCTION,
    LEAST_SHARE,
    LatentScaling,
    Scaling,
    has_one_width,
)
from bathyscope.evaluation.summary import without_nan
from bathyscope.metrics.latents import LatentCounts
from bathyscope.metrics.reconstruction import Reconstruction
from bathyscope.models.precision import default_device_kind
from bathyscope.runs.activations import Rows, row_masks
from bathyscope.runs.identity import digest
from bathyscope.runs.run import DICTIONARIES, EVALUATIONS, Run
from bathyscope.runs.tables import to_parquet
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.hook_columns import hook_columns
from bathyscope.stages.masks import PROTOCOL, kept
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.objects import Objects
from bathyscope.values import HELD_OUT, SPLITS, TRAIN, Json, Receipt, Unit, UnitPlan

NAME = "evaluate"
SEMANTICS = 1
_BATCH_ROWS = 8192
DEFINITIONS = {
    "fvu": "Σ‖x - x̂‖² / Σ‖x - x̄‖² of the hook point, x̄ the mean of these rows",
    "norm_share": "‖decoder row at the hook point‖ / sum over hook points, as trained on",
    "exclusive_by_norm": f"latents with {LEAST_SHARE} or more of their norm at the hook point",
    "exclusive": (
        f"of these, those with ν_ε below {LARGEST_ERROR} and ν_r below {LARGEST_RECONSTRUCTION} "
        "at all others (latent scaling, arXiv:2504.02922)"
    ),
}


@dataclass
class Context:
    """The crosscoder, its rows and the scales of its columns."""

    dictionary: Crosscoder
    inputs: list[Rows]
    scales: Tensor
    objects: Objects
    segment: str


def units(config: Config) -> Work:
    """One unit, identified by activations and dictionary."""
    run = Run(config.url)
    rows = hook_columns(config, run).inputs
    trained = run.manifest(f"{DICTIONARIES}/{config.dictionary.name}")
    identity: Json = {
        "stage": NAME,
        "kind": Crosscoder.kind,
        "semantics": SEMANTICS,
        "activations": digest(rows[0].identity),
        "hooks": config.inputs,
        "dictionary": trained.facts["weights_digest"],
    }
    artifact = f"{EVALUATIONS}/{config.dictionary.name}"
    plan = UnitPlan((("all", 0, 1),), 1)
    hint = "Pass force=true to replace it."
    return Work(NAME, artifact, identity, plan, unit_name="evaluations", hint=hint)


def open(config: Config, work: Work) -> Context:
    """The dictionary and the readers of its hook points."""
    run, device = Run(config.url), default_device_kind()
    columns = hook_columns(config, run)
    dictionary = run.dictionaries[config.dictionary.name].to(device)
    assert isinstance(dictionary, Crosscoder)
    scales, _ = columns.scales_and_mean()
    objects = Objects(config.url).at(work.artifact)
    return Context(dictionary, columns.inputs, scales.to(device), objects, work.segment.name)


@torch.no_grad()
def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Measure both splits, and write what is known of each latent beside the results."""
    dictionary, results = context.dictionary, {}
    scaling = LatentScaling(dictionary, context.scales) if has_one_width(dictionary) else None
    for split in SPLITS:
        held_out = scaling if split == HELD_OUT else None
        results[split] = _measured(context, split, held_out, guard)
    latents: Json | None = None
    if scaling is not None:
        found = scaling.result()
        latents = _exclusive(dictionary, found)
        context.objects.put(_table_key(context.segment), _table(dictionary, found))
    figures = {"reconstruction": results, "latents": latents}
    return Outcome(valid=1, figures=without_nan(figures))


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Write results.json and publish it with its headline."""
    segment = begun.work.segment.name
    results = {
        **receipts[0].figures,
        "definitions": DEFINITIONS,
        "protocol": {"positions": PROTOCOL, "spliced": "not measured for crosscoders"},
    }
    key = f"results.{segment}.json"
    begun.objects.put(key, json.dumps(results, indent=1, allow_nan=False).encode())
    held_out, trained = (results["reconstruction"][split] for split in (HELD_OUT, TRAIN))
    facts: Json = {
        "results_key": key,
        "l0": held_out["l0"],
        "fvu": _mean(held_out["fvu"]),
        "fvu_per_hook": held_out["fvu"],
        "train_fvu_per_hook": trained["fvu"],
        "dead_share": trained["dead_share"],
        "dead_share_rows": trained["rows"],
        "latents": results["latents"],
    }
    if results["latents"] is not None:
        facts["latents_key"] = _table_key(segment)
    publish(begun, facts)
    return facts


def _mean(per_hook: Mapping[str, float | None]) -> float | None:
    """The mean over hook points, as in the training loss; None where one is undefined."""
    found = [value for value in per_hook.values() if value is not None]
    return sum(found) / len(found) if len(found) == len(per_hook) else None


def _measured(context: Context, split: str, scaling: LatentScaling | None, guard: Guard) -> Json:
    dictionary = context.dictionary
    sums = {b.hook_point: Reconstruction(b.width) for b in dictionary.outputs}
    counts = LatentCounts(dictionary.num_latents)
    for share, block in _blocks(context, split):
        guard.check()
        guard.progress((share + SPLITS.index(split)) / len(SPLITS), split.replace("_", " "))
        x = block.to(context.scales.device).float()
        latents = dictionary.encode(x)
        x_hat = dictionary.decode(latents)
        counts.update(latents.values, latents.indices)
        for b in dictionary.outputs:
            sums[b.hook_point].update(
                x[:, b.columns], x_hat[:, b.columns], num_active=latents.count
            )
        if scaling is not None:
            scaling.update(latents.values, latents.indices, x, x_hat)
    results = {name: s.results() for name, s in sums.items()}
    dead = counts.dead_share()
    return {
        "rows": dead.num_rows,
        "l0": next(iter(results.values()))["l0"],
        "fvu": {name: found["fvu"] for name, found in results.items()},
        "dead_share": dead.share,
    }


def _blocks(context: Context, split: str) -> Iterator[tuple[float, Tensor]]:
    """How much is done, and rows that count [n, Σ d], of as many items as are held out."""
    first, corpus = context.inputs[0], context.inputs[0].corpus
    items = corpus.split_range(split)
    held_out = corpus.split_range(HELD_OUT)
    stop = min(items.stop, items.start + held_out.stop - held_out.start)
    each = max(_BATCH_ROWS // first.per_item, 1)
    for start in range(items.start, stop, each):
        end = min(start + each, stop)
        keep = torch.from_numpy(kept(row_masks(corpus.masks(start, end), first.per_item)))
        rows = [rows.items(start, end).flatten(0, 1)[keep] for rows in context.inputs]
        yield (start - items.start) / (stop - items.start), torch.cat(rows, dim=1)


def _exclusive(dictionary: Crosscoder, found: Scaling) -> Json:
    """How many latents each hook point has for itself, by norm and after the check."""
    names = [block.hook_point for block in dictionary.outputs]
    active = found.num_rows > 0
    return {
        "active": int(active.sum()),
        "exclusive_by_norm": {
            name: int((active & (found.by_norm == number)).sum())
            for number, name in enumerate(names)
        },
        "exclusive": {
            name: int((found.exclusive == number).sum()) for number, name in enumerate(names)
        },
    }


def _table(dictionary: Crosscoder, found: Scaling) -> bytes:
    """Parquet: a row per latent, columns per hook point."""
    columns = {
        "latent": range(dictionary.num_latents),
        "rows": found.num_rows.cpu().numpy(),
        "exclusive_by_norm": found.by_norm.cpu().numpy(),
        "exclusive": found.exclusive.cpu().numpy(),
    }
    of_hooks = {
        "norm_share": found.share,
        "beta_error": found.beta_error,
        "beta_reconstruction": found.beta_reconstruction,
        "nu_error": found.nu_error,
        "nu_reconstruction": found.nu_reconstruction,
    }
    for name, numbers in of_hooks.items():
        for number, block in enumerate(dictionary.outputs):
            columns[f"{name}/{block.hook_point}"] = numbers[:, number].cpu().numpy()
    return to_parquet(pa.table({name: pa.array(values) for name, values in columns.items()}))


def _table_key(segment: str) -> str:
    return f"latents.{segment}.parquet"
