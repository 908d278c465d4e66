"""encode: every harvested row becomes its active latents, in the units of the harvest.

Those of TopK have one width; those of other activation functions are as long as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.models.precision import default_device_kind
from bathyscope.runs.activations import Rows
from bathyscope.runs.identity import digest
from bathyscope.runs.run import DICTIONARIES, LATENTS, Run
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.hook_columns import hook_columns
from bathyscope.stages.latent_layout import latent_arrays, lay_out_latents
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.stores.units import write_unit
from bathyscope.values import Json, Unit, UnitPlan

NAME = "encode"
SEMANTICS = 3
AUDITED = True
_BATCH_ROWS = 8192


@dataclass
class Context:
    """The dictionary and the rows it encodes, by hook point."""

    dictionary: AnyDictionary
    inputs: list[Rows]
    objects: Objects
    segment: Segment
    fsync: bool


def units(config: Config) -> Work:
    """The units of the harvest, identified by activations and dictionary."""
    run = Run(config.url)
    name = config.dictionary.name
    columns = hook_columns(config, run)
    rows = columns.inputs[0]
    trained = run.manifest(f"{DICTIONARIES}/{name}")
    source = rows.readers[0].segment
    k = int(trained.facts["k"])
    layout = lay_out_latents(
        k,
        fixed=trained.facts["activation"] == "topk",
        num_latents=int(trained.facts["num_latents"]),
        unit_items=source.plan.items_per_unit,
        per_item=rows.per_item,
        store=config.store,
    )
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "activations": digest(rows.identity),
        "dictionary": trained.facts["weights_digest"],
        "hooks": config.inputs,
        "chunk_rows": [a.chunk_rows for a in layout.arrays],
        "shard_rows": [a.shard_rows for a in layout.arrays],
    }
    plan = UnitPlan(source.plan.ranges, source.plan.items_per_unit)
    return Work(
        NAME,
        f"{LATENTS}/{name}",
        identity,
        plan,
        rows.per_item,
        layout.arrays,
        layout.rows_per_unit,
        {"num_latents": int(trained.facts["num_latents"]), "k": k},
    )


def open(config: Config, work: Work) -> Context:
    """The dictionary and the reader."""
    run = Run(config.url)
    return Context(
        dictionary=run.dictionaries[config.dictionary.name].to(default_device_kind()),
        inputs=hook_columns(config, run).inputs,
        objects=Objects(config.url).at(work.artifact),
        segment=work.segment,
        fsync=config.store.fsync,
    )


@torch.no_grad()
def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Encode the rows of a unit and write values and indices."""
    inputs = [rows.unit_rows(unit) for rows in context.inputs]
    num_rows, device = len(inputs[0]), context.dictionary.parts[0].W_enc.device
    found = []
    for start in range(0, num_rows, _BATCH_ROWS):
        blocks = [rows[start : start + _BATCH_ROWS].to(device).float() for rows in inputs]
        latents = context.dictionary.encode(torch.cat(blocks, dim=1))
        found.append((latents.values.cpu(), latents.indices.cpu()))
        guard.progress(min((start + _BATCH_ROWS) / num_rows, 1.0))
    shards = write_unit(
        context.objects,
        context.segment,
        unit=unit,
        rows=latent_arrays(context.segment, unit, found),
        check=guard.check,
        fsync=context.fsync,
        keep=guard.keep,
    )
    return Outcome(valid=num_rows, shards=shards)


def finish(config: Config, begun: Begun, receipts: StoredReceipts) -> Json:
    """Publish the latents."""
    counts = receipts.counts
    facts = {
        "rows": int(counts.valid.sum()),
        "bytes": int(counts.stored_bytes.sum()),
    }
    publish(begun, facts)
    return facts
