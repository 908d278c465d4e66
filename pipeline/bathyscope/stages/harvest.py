"""harvest: runs the model over the corpus and stores activations of the hook points.

Each unit is a fixed range of sequences, computed in batches of one fixed shape; the last batch
is padded and trimmed, so that the bytes do not depend on what else is in the unit. The forward
stops at the last hook point, and the layers after it are never loaded. Moments are those of the
rows before `store.codec` makes them smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.errors import NonFiniteError
from bathyscope.models.capture import capture
from bathyscope.models.hook_points import HookPoint
from bathyscope.models.load import LoadedModel
from bathyscope.runs.corpus import Corpus
from bathyscope.runs.identity import digest
from bathyscope.runs.run import ACTIVATIONS, Run
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.layout import Column, items_per_unit, lay_out
from bathyscope.stages.model import describe_model, load_for_hooks
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.chunks import MASK_CLASSES
from bathyscope.stores.codecs import NONE
from bathyscope.stores.manifests import Segment
from bathyscope.stores.moments import classes_by_chunk, moments_by_class
from bathyscope.stores.objects import Objects
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.stores.units import encoded, write_unit
from bathyscope.values import Json, Unit, UnitPlan

NAME = "harvest"
SEMANTICS = 1
AUDITED = True


@dataclass
class Context:
    """A loaded model and the store that it fills."""

    corpus: Corpus
    model: LoadedModel
    hooks: list[HookPoint]
    segment: Segment
    objects: Objects
    batch_items: int
    fsync: bool


def units(config: Config) -> Work:
    """Units over the items of the corpus, each split apart."""
    corpus = Run(config.url).corpus
    model = describe_model(config)
    per_item = corpus.sequence_length
    per_unit = items_per_unit(
        corpus.num_items,
        rows_per_item=per_item,
        batch_items=config.hooks.batch_items,
        store=config.store,
    )
    columns = [
        Column(hook.name, (width,), "uint16", "bfloat16", config.store.codec)
        for hook, width in zip(model.shape.hooks, model.shape.widths, strict=True)
    ]
    layout = lay_out(columns, unit_rows=per_unit * per_item, store=config.store)
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "corpus": digest(corpus.identity),
        "model": model.digest(config),
        "dtype": model.dtype_name,
        "attention": config.model.attention,
        "hooks": {hook.name: f"{hook.path}:{hook.side}" for hook in model.shape.hooks},
        "batch_items": config.hooks.batch_items,
        "items_per_unit": per_unit,
        "chunk_rows": [a.chunk_rows for a in layout.arrays],
        "shard_rows": [a.shard_rows for a in layout.arrays],
    }
    if config.store.codec != NONE:
        identity["codec"] = config.store.codec
    plan = UnitPlan(tuple((r.split, r.start, r.stop) for r in corpus.ranges), per_unit)
    facts = {"model": model.name, "dtype": model.dtype_name, "dtype_reason": model.dtype_reason}
    return Work(
        NAME, ACTIVATIONS, identity, plan, per_item, layout.arrays, layout.rows_per_unit, facts
    )


def open(config: Config, work: Work) -> Context:
    """Load the model up to the last hook point."""
    model, hooks = load_for_hooks(config)
    return Context(
        corpus=Run(config.url).corpus,
        model=model,
        hooks=hooks,
        segment=work.segment,
        objects=Objects(config.url).at(ACTIVATIONS),
        batch_items=config.hooks.batch_items,
        fsync=config.store.fsync,
    )


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Forward every batch of the unit, then write its shards."""
    rows = _forward(unit, context, guard)
    masks = context.corpus.masks(unit.start, unit.stop).reshape(-1)
    shards = write_unit(
        context.objects,
        context.segment,
        unit=unit,
        rows={
            array: data
            for name, x in rows.items()
            for array, data in encoded(context.segment, name, x).items()
        },
        check=guard.check,
        fsync=context.fsync,
        keep=guard.keep,
    )
    return Outcome(
        valid=len(masks),
        shards=shards,
        moments={name: moments_by_class(x, masks) for name, x in rows.items()},
        figures={
            MASK_CLASSES: [
                classes_by_chunk(masks, rows)
                for rows in sorted({a.chunk_rows for a in context.segment.arrays})
            ]
        },
    )


def finish(config: Config, begun: Begun, receipts: StoredReceipts) -> Json:
    """Publish the store; say how many rows it holds and on what they were made."""
    counts = receipts.counts
    kinds = sorted(receipts.written_by("device"))
    facts = {
        "rows": int(counts.valid.sum()),
        "bytes": int(counts.stored_bytes.sum()),
        "made_on": kinds,
        "mixed": len(kinds) > 1,
    }
    publish(begun, facts)
    return facts


def _forward(unit: Unit, context: Context, guard: Guard) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {hook.name: [] for hook in context.hooks}
    starts = range(unit.start, unit.stop, context.batch_items)
    for number, start in enumerate(starts):
        stop = min(start + context.batch_items, unit.stop)
        tokens = _padded(context.corpus.tokens(start, stop), context.batch_items)
        inputs = {"input_ids": tokens.to(context.model.input_device), "use_cache": False}
        captured = capture(context.model.model, context.hooks, inputs)
        for name, activations in captured.items():
            kept = activations[: stop - start].to(torch.bfloat16).cpu().flatten(0, 1)
            _check_finite(kept, name, start, context.corpus.sequence_length)
            parts[name].append(kept)
        guard.progress((number + 1) / len(starts))
    return {name: torch.cat(rows) for name, rows in parts.items()}


def _padded(tokens: Tensor, batch_items: int) -> Tensor:
    missing = batch_items - len(tokens)
    return torch.cat([tokens, tokens.new_zeros(missing, tokens.shape[1])]) if missing else tokens


def _check_finite(rows: Tensor, name: str, first_item: int, per_item: int) -> None:
    finite = torch.isfinite(rows).all(1)
    if finite.all():
        return
    bad = torch.nonzero(~finite).flatten()
    where = int(bad[0])
    raise NonFiniteError(
        f"Hook point {name} gave {len(bad)} rows with NaN or infinity, the first at item "
        f"{first_item + where // per_item}, position {where % per_item}. Nothing of this unit was "
        "stored. Try model.dtype=float32, or check the weights of that layer."
    )
