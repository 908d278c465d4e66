"""encode: every harvested row becomes its top-k latents, in the units of the harvest."""

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
from bathyscope.stages.layout import Column, lay_out
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.rows import to_disk
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.stores.units import write_unit
from bathyscope.values import Json, Unit, UnitPlan

NAME = "encode"
SEMANTICS = 2
AUDITED = True
_BATCH_ROWS = 8192


@dataclass
class Context:
    """The dictionary and the rows it encodes."""

    dictionary: AnyDictionary
    rows: Rows
    objects: Objects
    segment: Segment
    fsync: bool


def units(config: Config) -> Work:
    """The units of the harvest, identified by activations and dictionary."""
    run = Run(config.url)
    name = config.dictionary.name
    rows = run.activations[config.hook]
    trained = run.manifest(f"{DICTIONARIES}/{name}")
    source = rows.readers[0].segment
    k = int(trained.facts["k"])
    columns = [
        Column("values", (k,), "uint16", "bfloat16"),
        Column("indices", (k,), "uint32", "uint32"),
    ]
    rows_per_unit = source.plan.items_per_unit * rows.per_item
    layout = lay_out(columns, unit_rows=rows_per_unit, store=config.store)
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "activations": digest(rows.identity),
        "dictionary": trained.facts["weights_digest"],
        "hook": config.hook,
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
        rows=run.activations[config.hook],
        objects=Objects(config.url).at(work.artifact),
        segment=work.segment,
        fsync=config.store.fsync,
    )


@torch.no_grad()
def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Encode the rows of a unit and write values and indices."""
    rows = context.rows.unit_rows(unit)
    values, indices = [], []
    for start in range(0, len(rows), _BATCH_ROWS):
        block = (
            rows[start : start + _BATCH_ROWS].to(context.dictionary.parts[0].W_enc.device).float()
        )
        latents = context.dictionary.encode(block)
        values.append(latents.values.to(torch.bfloat16).cpu())
        indices.append(latents.indices.cpu())
        guard.progress(min((start + _BATCH_ROWS) / len(rows), 1.0))
    shards = write_unit(
        context.objects,
        context.segment,
        unit=unit,
        rows={
            "values": to_disk(torch.cat(values)),
            "indices": to_disk(torch.cat(indices).to(torch.uint32)),
        },
        check=guard.check,
        fsync=context.fsync,
        keep=guard.keep,
    )
    return Outcome(valid=len(rows), shards=shards)


def finish(config: Config, begun: Begun, receipts: StoredReceipts) -> Json:
    """Publish the latents."""
    counts = receipts.counts
    facts = {
        "rows": int(counts.valid.sum()),
        "bytes": int(counts.stored_bytes.sum()),
    }
    publish(begun, facts)
    return facts
