"""harvest: runs the model over the corpus and stores activations of the hook points.

Each unit is a fixed range of sequences, computed in batches of one fixed shape; the last batch
is padded and trimmed, so that the bytes do not depend on what else is in the unit. The forward
stops at the last hook point, and the layers after it are never loaded. One thread launches the
batches and waits for nothing; rows go into a ring of host memory, and threads write full shards.
Moments are those of the rows before `store.codec` makes them smaller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.errors import BathyscopeError
from bathyscope.models.capture import capture_batches
from bathyscope.models.load import LoadedModel
from bathyscope.models.shapes import ModelShape
from bathyscope.runs.corpus import Corpus
from bathyscope.runs.identity import digest
from bathyscope.runs.run import ACTIVATIONS, Run
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.layout import Column, Layout, items_per_unit, lay_out
from bathyscope.stages.model import describe_model, load_for_hooks, load_share
from bathyscope.stages.model_check import check_model, check_tokenizer
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stages.turns import Turns
from bathyscope.stores.chunks import MASK_CLASSES
from bathyscope.stores.codecs import NONE
from bathyscope.stores.filling import Filling
from bathyscope.stores.manifests import Segment
from bathyscope.stores.moments import classes_by_chunk
from bathyscope.stores.objects import Objects
from bathyscope.stores.ring import Ring
from bathyscope.stores.shards import ArraySpec
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.values import Json, Unit, UnitPlan

NAME = "harvest"
SEMANTICS = 1
AUDITED = True
LANES = 2
PARTS = True
_IN_FLIGHT = 4


Captures = Callable[[Iterable[Tensor]], Iterator[dict[str, Tensor]]]


@dataclass
class Context:
    """A loaded model and the store that it fills."""

    corpus: Corpus
    model: LoadedModel
    captures: Captures
    """Batches of tokens -> the tensors at the hook points, batch by batch."""
    names: list[str]
    """Hook points of this process: all of them, or those in its part of the model."""
    segment: Segment
    objects: Objects
    batch_items: int
    fsync: bool
    ring: Ring
    """Host memory between the model and the disk."""
    writers: ThreadPoolExecutor
    turns: Turns = field(default_factory=Turns)
    """One unit computes at a time, while the one before it is still written."""


def units(config: Config) -> Work:
    """Units over the items of the corpus, each split apart."""
    corpus = Run(config.url).corpus
    model = describe_model(config)
    check_tokenizer(model.folder, corpus.identity)
    per_item = corpus.sequence_length
    per_unit, layout = lay_out_rows(config, model.shape, corpus.num_items)
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


def open(config: Config, work: Work, part: tuple[int, int] | None = None) -> Context:
    """Load the model up to the last hook point, or its share where `part` is (rank, processes).

    Processes of parts are in one group of `torch.distributed`, and do each unit together.
    Raises `IdentityMismatch` where the model's folder is another one here than for the driver.
    """
    facts = describe_model(config)
    check_model(config, work, facts)
    captures: Captures
    if part is None:
        model, hooks = load_for_hooks(config, facts)
        captures = partial(capture_batches, model.model, hooks)
    else:
        share = load_share(config, facts, *part)
        model, hooks, captures = share.loaded, share.points, share.run
    names = [hook.name for hook in hooks]
    arrays = [spec for spec in work.segment.arrays if spec.name in names]
    return Context(
        corpus=Run(config.url).corpus,
        model=model,
        captures=captures,
        names=names,
        segment=work.segment,
        objects=Objects(config.url).at(ACTIVATIONS),
        batch_items=config.hooks.batch_items,
        fsync=config.store.fsync,
        ring=Ring(ring_bytes(config, arrays), pinned=model.input_device.type == "cuda"),
        writers=writer_threads(config.hooks.writers),
    )


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Forward every batch of the unit while its shards are written."""
    masks = context.corpus.masks(unit.start, unit.stop).reshape(-1)
    filling = Filling(
        context.objects,
        context.segment,
        unit,
        masks=masks,
        ring=context.ring,
        pool=context.writers,
        check=guard.check,
        fsync=context.fsync,
        keep=guard.keep,
        names=context.names,
    )
    try:
        with context.turns.take(guard.turn):
            failed = _forward(unit, context, filling, guard)
        if failed is not None:
            raise failed
        filled = filling.finish()
    except BaseException:
        filling.abandon()
        raise
    return Outcome(
        valid=len(masks),
        shards=filled.shards,
        moments=filled.moments,
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


def lay_out_rows(config: Config, shape: ModelShape, num_items: int) -> tuple[int, Layout]:
    """Items of a unit, and the arrays of the hook points."""
    per_item = config.data.sequence_length
    per_unit = items_per_unit(
        num_items,
        rows_per_item=per_item,
        batch_items=config.hooks.batch_items,
        store=config.store,
    )
    columns = [
        Column(hook.name, (width,), "uint16", "bfloat16", config.store.codec)
        for hook, width in zip(shape.hooks, shape.widths, strict=True)
    ]
    return per_unit, lay_out(columns, unit_rows=per_unit * per_item, store=config.store)


def ring_bytes(config: Config, arrays: Sequence[ArraySpec]) -> int:
    """Host memory for rows on their way: as set, or two shards of bfloat16 per hook point."""
    rows = [spec for spec in arrays if spec.scales_of is None]
    shards = sum(spec.shard_rows * 2 * int(np.prod(spec.row_shape)) for spec in rows)
    return config.hooks.ring_bytes or 2 * shards


def writer_threads(count: int) -> ThreadPoolExecutor:
    """Threads that sum, hash and write full shards. Each computes with one thread of its own."""
    return ThreadPoolExecutor(count, "writer", initializer=torch.set_num_threads, initargs=(1,))


def _forward(
    unit: Unit, context: Context, filling: Filling, guard: Guard
) -> BathyscopeError | None:
    """All batches of a unit. Returns what went wrong where other processes must not be left alone.

    They hold other parts of the model and wait for the batches that are left.
    """
    tokens = context.corpus.tokens(unit.start, unit.stop)
    count = -(-len(tokens) // context.batch_items)
    left = len(tokens)
    failed: BathyscopeError | None = None
    in_flight: deque[torch.cuda.Event] = deque()
    for number, captured in enumerate(context.captures(_batches(tokens, context))):
        try:
            for name, activations in captured.items() if failed is None else ():
                filling.add(name, activations[: min(left, context.batch_items)].flatten(0, 1))
            guard.progress((number + 1) / count)
        except BathyscopeError as error:
            if guard.turn is None:
                raise
            failed = error
        left -= context.batch_items
        if captured and context.model.input_device.type == "cuda":
            _bound(in_flight, captured)
    return failed


def _batches(tokens: Tensor, context: Context) -> Iterator[Tensor]:
    device = context.model.input_device
    for part in tokens.split(context.batch_items):
        inputs = _padded(part, context.batch_items)
        if device.type == "cuda":
            # From pageable memory the copy would wait for the GPU.
            inputs = inputs.pin_memory().to(device, non_blocking=True)
        yield inputs


def _bound(in_flight: deque[torch.cuda.Event], captured: dict[str, Tensor]) -> None:
    """Keep a few batches ahead of the GPUs, so that they never wait for each other or for us."""
    last = list(captured.values())[-1]
    in_flight.append(torch.cuda.current_stream(last.device).record_event())
    if len(in_flight) > _IN_FLIGHT:
        in_flight.popleft().synchronize()


def _padded(tokens: Tensor, batch_items: int) -> Tensor:
    missing = batch_items - len(tokens)
    return torch.cat([tokens, tokens.new_zeros(missing, tokens.shape[1])]) if missing else tokens
