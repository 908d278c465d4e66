"""describe: what each latent responds to. Densities, examples, histograms, promoted tokens.

A unit goes once over the latents of its rows and keeps a small state per latent; `finish` merges
the states and fetches the tokens around the examples.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from bathyscope.config import Config
from bathyscope.features.examples import SampledExamples, TopExamples
from bathyscope.features.statistics import LatentStatistics
from bathyscope.runs.identity import digest
from bathyscope.runs.latents import Latents
from bathyscope.runs.run import FEATURES, LATENTS, Run
from bathyscope.runs.tables import LATENTS_SCHEMA, to_parquet
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.activation_scale import activation_scale
from bathyscope.stages.examples import examples_table
from bathyscope.stages.masks import kept
from bathyscope.stages.promoted import Promoted, promoted
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.objects import Objects
from bathyscope.values import Json, Receipt, Unit

NAME = "describe"
SEMANTICS = 2
_BLOCK_ROWS = 8192


@dataclass
class State:
    """What is kept while going over rows; states of units merge to that of all rows."""

    statistics: LatentStatistics
    top: TopExamples
    sampled: SampledExamples

    def merge(self, other: State) -> None:
        """Add the rows of another state."""
        self.statistics.merge(other.statistics)
        self.top.merge(other.top)
        self.sampled.merge(other.sampled)


@dataclass
class Context:
    """The latents, the settings of a state, and where states go."""

    latents: Latents
    config: Config
    objects: Objects
    scale: float
    segment: str


def units(config: Config) -> Work:
    """The units of the latents, identified by them and by what is kept."""
    run = Run(config.url)
    name = config.dictionary.name
    latents = run.latents[name]
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "latents": digest(latents.identity),
        "corpus": digest(run.corpus.identity),
        **vars(config.describe),
    }
    plan = run.manifest(f"{LATENTS}/{name}").segments[0].plan
    hint = "Pass force=true to replace it."
    return Work(NAME, f"{FEATURES}/{name}", identity, plan, hint=hint)


def open(config: Config, work: Work) -> Context:
    """Readers, and the scale of the activation histograms."""
    run = Run(config.url)
    return Context(
        latents=run.latents[config.dictionary.name],
        config=config,
        objects=Objects(config.url).at(work.artifact),
        scale=activation_scale(config, run),
        segment=work.segment.name,
    )


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Go over the rows of a unit and store its state."""
    state = _empty(context)
    latents = context.latents.of_unit(unit)
    keep = kept(context.latents.masks(unit))
    first = unit.start * context.latents.corpus.sequence_length
    for start in range(0, latents.num_rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, latents.num_rows)
        inside = keep[start:stop]
        values, indices = (part[inside] for part in latents.rows(start, stop))
        rows = first + start + np.flatnonzero(inside)
        state.statistics.update(values, indices)
        state.top.update(values, indices, rows)
        state.sampled.update(values, indices, rows)
        guard.progress(stop / latents.num_rows)
    data = _to_bytes(state)
    guard.check()
    key = f"states/{context.segment}/{unit.index:08d}.npz"
    context.objects.put(key, data)
    figures = {"key": key, "digest": xxhash.xxh3_128_hexdigest(data), "scale": context.scale}
    return Outcome(valid=int(keep.sum()), figures=figures)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Merge states in the order of units, build both tables, publish, drop the states."""
    run = Run(config.url)
    state = _merged(config, begun.objects, receipts)
    segment = begun.work.segment.name
    keys = {
        "latents_key": f"latents.{segment}.parquet",
        "examples_key": f"examples.{segment}.parquet",
    }
    latents = _latents_table(state.statistics, promoted(config, run))
    examples = examples_table(config, run, top=state.top, sampled=state.sampled)
    begun.objects.put(keys["latents_key"], to_parquet(latents))
    begun.objects.put(keys["examples_key"], to_parquet(examples))
    facts: Json = {
        **keys,
        "rows": state.statistics.num_rows,
        "latents": len(latents),
        "silent": int((state.statistics.counts == 0).sum()),
        "examples": len(examples),
        "histogram_edges": state.statistics.edges().tolist(),
    }
    publish(begun, facts)
    begun.objects.delete_folder(f"states/{segment}")
    return facts


def _empty(context: Context) -> State:
    settings = context.config.describe
    num_latents = int(context.latents.facts["num_latents"])
    per_item = context.latents.corpus.sequence_length
    return State(
        LatentStatistics(num_latents, scale=context.scale),
        TopExamples(num_latents, settings.top_examples, rows_per_item=per_item),
        SampledExamples(num_latents, settings.sampled_examples, seed=settings.seed),
    )


def _merged(config: Config, objects: Objects, receipts: Mapping[int, Receipt]) -> State:
    per_item = config.data.sequence_length
    merged: State | None = None
    for receipt in receipts.values():
        state = _from_bytes(objects.get(receipt.figures["key"]), per_item)
        if merged is None:
            merged = state
        else:
            merged.merge(state)
    assert merged is not None, "a store has at least one unit"
    return merged


def _to_bytes(state: State) -> bytes:
    parts = {
        "statistics": state.statistics.to_arrays(),
        "top": state.top.to_arrays(),
        "sampled": state.sampled.to_arrays(),
    }
    arrays: dict[str, Any] = {f"{p}.{n}": a for p, named in parts.items() for n, a in named.items()}
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _from_bytes(data: bytes, rows_per_item: int) -> State:
    parts: dict[str, dict[str, npt.NDArray[Any]]] = {"statistics": {}, "top": {}, "sampled": {}}
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        for name in arrays.files:
            part, _, field = name.partition(".")
            parts[part][field] = arrays[name]
    return State(
        LatentStatistics.from_arrays(parts["statistics"]),
        TopExamples.from_arrays(parts["top"], rows_per_item=rows_per_item),
        SampledExamples.from_arrays(parts["sampled"]),
    )


def _latents_table(statistics: LatentStatistics, tokens: Promoted | None) -> pa.Table:
    num = statistics.num_latents
    fired = statistics.counts > 0
    empty: list[list[Any]] = [[]] * num
    columns = {
        "latent": np.arange(num),
        "count": statistics.counts,
        "density": statistics.counts / max(statistics.num_rows, 1),
        "mean": np.where(fired, statistics.means(), np.nan).astype(np.float32),
        "max": np.where(fired, statistics.maxima, np.nan).astype(np.float32),
        "histogram": statistics.histogram.tolist(),
        "promoted_ids": tokens.top_ids.tolist() if tokens else empty,
        "promoted_values": tokens.top_values.tolist() if tokens else empty,
        "suppressed_ids": tokens.bottom_ids.tolist() if tokens else empty,
        "suppressed_values": tokens.bottom_values.tolist() if tokens else empty,
    }
    return pa.table(columns, schema=LATENTS_SCHEMA)
