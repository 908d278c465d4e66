"""observe: what nights are compared by: sums over documents, of latents, reconstruction and loss.

A unit goes once over the latents and the activations of its rows. Documents may be cut where units
meet, so a state keeps both of its ends open; `finish` joins the states in their order. With a share
of latents to keep, whole items are drawn and their latents written to a table.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import xxhash
from torch import Tensor

from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.evaluation.splice import Forward, add_batch
from bathyscope.evaluation.summary import without_nan
from bathyscope.features.drift.documents import Scales
from bathyscope.features.drift.part import NightPart
from bathyscope.metrics.splice import TokenLosses
from bathyscope.models.precision import default_device_kind
from bathyscope.runs.activations import Rows
from bathyscope.runs.identity import digest
from bathyscope.runs.latents import Latents
from bathyscope.runs.run import DICTIONARIES, LATENTS, OBSERVATIONS, Run
from bathyscope.runs.tables import from_parquet, to_parquet
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.activation_scale import activation_scale, squared_deviation
from bathyscope.stages.latent_sample import SAMPLE_SCHEMA, drawn_items, sampled
from bathyscope.stages.masks import PROTOCOL, kept
from bathyscope.stages.observed import figures_of
from bathyscope.stages.spliced import forward_of
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.objects import Objects
from bathyscope.values import Json, Receipt, Unit

NAME = "observe"
SEMANTICS = 1
BASELINES = {
    "zero": "the activation is set to zero",
    "mean": "the activation is set to what the dictionary gives without an active latent",
}
_BLOCK_ROWS = 8192


@dataclass
class Context:
    """What is read, what reconstructs it, and where states go."""

    config: Config
    latents: Latents
    rows: Rows
    dictionary: AnyDictionary
    nothing: Tensor
    """What the dictionary gives for a row without active latents [d]; rows are centred by it."""
    forward: Forward
    device: torch.device
    scales: Scales
    objects: Objects
    segment: str


def units(config: Config) -> Work:
    """The units of the latents, identified by them and by what is measured."""
    run = Run(config.url)
    name = config.dictionary.name
    latents, settings = run.latents[name], config.evaluate
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "latents": digest(latents.identity),
        "corpus": digest(run.corpus.identity),
        "dictionary": run.manifest(f"{DICTIONARIES}/{name}").facts["weights_digest"],
        "splice_tokens": settings.splice_tokens,
        "batch_items": settings.batch_items,
        "sample_share": _share(config),
        "seed": settings.seed,
    }
    plan = run.manifest(f"{LATENTS}/{name}").segments[0].plan
    hint = "Pass force=true to replace it."
    return Work(NAME, f"{OBSERVATIONS}/{name}", identity, plan, hint=hint)


def open(config: Config, work: Work) -> Context:
    """Readers, the dictionary, and the model after the hook point."""
    run = Run(config.url)
    rows = run.activations[config.hook]
    forward, device = forward_of(config)
    dictionary = run.dictionaries[config.dictionary.name].to(default_device_kind())
    [part] = dictionary.parts
    bias = torch.zeros(part.d_out) if part.b_dec is None else part.b_dec.detach()
    scales = Scales(activation_scale(config, run), squared_deviation(config, run) * rows.width)
    return Context(
        config=config,
        latents=run.latents[config.dictionary.name],
        rows=rows,
        dictionary=dictionary,
        nothing=bias.float(),
        forward=forward,
        device=device,
        scales=scales,
        objects=Objects(config.url).at(work.artifact),
        segment=work.segment.name,
    )


@torch.no_grad()
def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Sum over the rows of a unit, send its first items through the model, store the state."""
    part, sample = _summed(unit, context, guard)
    losses = _losses(unit, context, guard)
    data = _packed(part.to_arrays())
    guard.check()
    key = f"states/{context.segment}/{unit.index:08d}"
    context.objects.put(f"{key}.npz", data)
    figures: Json = {"key": key, "digest": xxhash.xxh3_128_hexdigest(data)}
    if sample is not None:
        context.objects.put(f"{key}.parquet", to_parquet(sample))
    figures["losses"] = losses.to_dict()
    return Outcome(valid=unit.num_items, figures=figures)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Join the states in the order of their units, write the totals and the figures, publish."""
    objects, segment = begun.objects, begun.work.segment.name
    part: NightPart | None = None
    losses = TokenLosses()
    samples = [SAMPLE_SCHEMA.empty_table()]
    for receipt in receipts.values():
        key = receipt.figures["key"]
        found = NightPart.from_arrays(_unpacked(objects.get(f"{key}.npz")))
        if part is None:
            part = found
        else:
            part.join(found)
        losses.merge(TokenLosses.from_dict(receipt.figures["losses"]))
        if _share(config):
            samples.append(from_parquet(objects.get(f"{key}.parquet")))
    assert part is not None, "a store has at least one unit"
    totals = part.close()
    figures = without_nan(figures_of(totals, losses, config))
    keys = {
        "totals_key": f"totals.{segment}.npz",
        "results_key": f"results.{segment}.json",
    }
    objects.put(keys["totals_key"], _packed(totals.to_arrays()))
    results = {**figures, "protocol": {"positions": PROTOCOL, "baselines": BASELINES}}
    objects.put(keys["results_key"], json.dumps(results, indent=1, allow_nan=False).encode())
    if _share(config):
        keys["sample_key"] = f"sample.{segment}.parquet"
        objects.put(keys["sample_key"], to_parquet(pa.concat_tables(samples)))
    facts: Json = {**keys, **figures}
    publish(begun, facts)
    objects.delete_folder(f"states/{segment}")
    return facts


def _share(config: Config) -> float:
    """Of the items whose latents are kept in a table."""
    nightly = config.nightly
    return nightly.sample_share if nightly.keep_latents == "sample" else 0.0


def _summed(unit: Unit, context: Context, guard: Guard) -> tuple[NightPart, pa.Table | None]:
    """Sums over the rows of a unit, and the latents of the items that were drawn."""
    latents, rows = context.latents.of_unit(unit), context.rows.unit_rows(unit)
    keep = kept(context.latents.masks(unit))
    documents = context.rows.corpus.documents(unit.start, unit.stop).reshape(-1)
    part = NightPart(context.dictionary.num_latents, context.scales)
    drawn = drawn_items(unit, _share(context.config), context.config.evaluate.seed)
    samples = [SAMPLE_SCHEMA.empty_table()]
    for start in range(0, latents.num_rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, latents.num_rows)
        inside = keep[start:stop]
        values, indices = (each[inside] for each in latents.rows(start, stop))
        kept_rows = rows[start:stop][torch.from_numpy(inside)]
        errors, norms = _squares(kept_rows, values, indices, context)
        part.add(values, indices, documents[start:stop][inside], errors=errors, norms=norms)
        places = unit.start * context.latents.per_item + start + np.flatnonzero(inside)
        if drawn is not None:
            samples.append(sampled(values, indices, places, drawn, context.latents.per_item))
        guard.progress(0.5 * stop / latents.num_rows)
    return part, None if drawn is None else pa.concat_tables(samples)


def _squares(
    rows: Tensor, values: npt.NDArray[Any], indices: npt.NDArray[Any], context: Context
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """‖x - x̂‖² and ‖x - c‖² of rows [n]; c is what the dictionary gives without a latent.

    x̂ is decoded from the latents that are stored: encoding is most of the work, and is done.
    """
    device = context.nothing.device
    [part] = context.dictionary.parts
    active = torch.from_numpy(indices.astype(np.int32)).to(device)
    x_hat = part.decode_lists(torch.from_numpy(values).to(device), active)
    x = rows.to(device).float()
    errors = (x - x_hat.float()).double().square().sum(1)
    norms = (x - context.nothing).double().square().sum(1)
    return errors.cpu().numpy(), norms.cpu().numpy()


def _losses(unit: Unit, context: Context, guard: Guard) -> TokenLosses:
    """Of the first items of the corpus: clean, with the dictionary, and of both baselines."""
    losses, corpus, settings = TokenLosses(), context.rows.corpus, context.config.evaluate
    # Position 0 is left out and the last position has no target.
    most = -(-settings.splice_tokens // (corpus.sequence_length - 2))
    last = min(r.start for r in corpus.ranges) + most if settings.splice_tokens else unit.stop
    starts = range(unit.start, min(unit.stop, last), settings.batch_items)
    nothing, device = context.nothing.to(context.device), context.device
    for number, start in enumerate(starts):
        guard.check()
        stop = min(start + settings.batch_items, starts.stop)
        add_batch(
            losses,
            context.forward,
            tokens=corpus.tokens(start, stop).to(device),
            activations=context.rows.items(start, stop).to(device),
            keep=torch.from_numpy(kept(corpus.masks(start, stop))).to(device),
            documents=torch.from_numpy(corpus.documents(start, stop).astype("int64")).to(device),
            variants={
                "dictionary": context.dictionary,
                "zero": torch.zeros_like,
                "mean": lambda x: nothing.expand_as(x),
            },
        )
        guard.progress(0.5 + 0.5 * (number + 1) / len(starts), "spliced model")
    return losses


def _packed(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def _unpacked(data: bytes) -> dict[str, npt.NDArray[Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
