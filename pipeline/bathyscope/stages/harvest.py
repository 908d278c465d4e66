"""harvest: runs the model over the corpus and stores activations of the hook points.

Each unit is a fixed range of items, computed in batches of one fixed shape; the last batch
is padded and trimmed, so that the bytes do not depend on what else is in the unit. The forward
stops at the last hook point, and the layers after it are never loaded. One thread launches the
batches and waits for nothing; rows go into a ring of host memory, and threads write full shards.
Moments are those of the rows before `store.codec` makes them smaller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.errors import BathyscopeError
from bathyscope.models.capture import capture_batches
from bathyscope.models.row_rules import rows_of
from bathyscope.runs.activations import row_masks
from bathyscope.runs.corpus import Corpus
from bathyscope.runs.identity import digest
from bathyscope.runs.run import ACTIVATIONS, Run
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.batches import ImageBatches, TokenBatches
from bathyscope.stages.harvest_layout import identity_of_some, lay_out_rows, ring_bytes
from bathyscope.stages.model import (
    describe_model,
    input_keyword,
    load_for_hooks,
    load_share,
)
from bathyscope.stages.model_check import check_model, check_tokenizer
from bathyscope.stages.room import Endless, Room, check_room, room_of
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stages.turns import Turns
from bathyscope.stores.chunks import MASK_CLASSES
from bathyscope.stores.filling import Filling
from bathyscope.stores.manifests import Segment
from bathyscope.stores.moments import classes_by_chunk
from bathyscope.stores.objects import Objects
from bathyscope.stores.ring import Ring
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.stores.writers import Writers
from bathyscope.values import Json, Unit, UnitPlan

NAME = "harvest"
SEMANTICS = 1
AUDITED = True
LANES = 2
PARTS = True
_IN_FLIGHT = 4


Batches = Callable[[Unit], Iterator[Tensor]]
Captures = Callable[[Iterable[Tensor]], Iterator[dict[str, Tensor]]]


def launching_thread() -> ThreadPoolExecutor:
    """A thread that computes with as many threads as the one that makes it."""
    count = torch.get_num_threads()
    return ThreadPoolExecutor(1, "launcher", initializer=torch.set_num_threads, initargs=(count,))


@dataclass
class Context:
    """A loaded model and the store that it fills."""

    corpus: Corpus
    device: torch.device
    """Where the model starts."""
    batches: Batches
    """The batches of a unit, as the model takes them."""
    captures: Captures
    """Batches -> the tensors at the hook points, batch by batch."""
    names: list[str]
    """Hook points of this process: all of them, or those in its part of the model."""
    segment: Segment
    objects: Objects
    batch_items: int
    fsync: bool
    ring: Ring
    """Host memory between the model and the disk."""
    writers: ThreadPoolExecutor
    channels_last: frozenset[str] = frozenset()
    """Hook points that give maps with channels last."""
    room: Room = field(default_factory=Endless)
    """Where the store holds a part at a time."""
    launcher: ThreadPoolExecutor = field(default_factory=launching_thread)
    """The one thread that runs the model, for all units: a new one would begin with cold caches."""
    turns: Turns = field(default_factory=Turns)
    """One unit computes at a time, while the one before it is still written."""


def units(config: Config) -> Work:
    """Units over the items of the corpus, each split apart."""
    corpus = Run(config.url).corpus
    model = describe_model(config)
    if not corpus.has_images:
        check_tokenizer(model.folder, corpus.identity)
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
    identity |= identity_of_some(config, model, corpus)
    plan = UnitPlan(tuple((r.split, r.start, r.stop) for r in corpus.ranges), per_unit)
    facts = {"model": model.name, "dtype": model.dtype_name, "dtype_reason": model.dtype_reason}
    per_item = corpus.sequence_length
    work = Work(
        NAME, ACTIVATIONS, identity, plan, per_item, layout.arrays, layout.rows_per_unit, facts
    )
    check_room(config, work.segment)
    return work


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
        keyword = input_keyword(config, facts)
        captures = partial(capture_batches, model.model, hooks, keyword=keyword)
    else:
        share = load_share(config, facts, *part)
        model, hooks, captures = share.loaded, share.points, share.run
    names = [hook.name for hook in hooks]
    arrays = [spec for spec in work.segment.arrays if spec.name in names]
    corpus, device = Run(config.url).corpus, model.input_device
    return Context(
        corpus=corpus,
        device=device,
        batches=_batches(config, corpus, facts.dtype, device),
        captures=captures,
        names=names,
        segment=work.segment,
        objects=Objects(config.url).at(ACTIVATIONS),
        batch_items=config.hooks.batch_items,
        fsync=config.store.fsync,
        ring=Ring(ring_bytes(config, arrays), pinned=device.type == "cuda"),
        writers=Writers(config.hooks.writers),
        channels_last=frozenset(config.hooks.channels_last),
        room=room_of(config, Objects(config.url).at(ACTIVATIONS), work.segment),
    )


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Forward every batch of the unit while its shards are written."""
    context.room.wait(unit, guard)
    masks = _masks(unit, context)
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
            launched = context.launcher.submit(_forward, unit, context, filling, guard)
            failed = launched.result()
        if failed is not None:
            raise failed
        filled = filling.finish()
    except BaseException:
        filling.abandon()
        raise
    context.room.written(unit, filled.shards)
    return Outcome(
        valid=unit.num_items * context.segment.rows_per_item,
        shards=filled.shards,
        moments=filled.moments,
        figures={MASK_CLASSES: _classes(context.segment, masks)},
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


def _masks(unit: Unit, context: Context) -> dict[str, npt.NDArray[np.uint8]]:
    """Mask bits of the rows of every array of the segment, also of other processes."""
    of_corpus = context.corpus.masks(unit.start, unit.stop)
    segment = context.segment
    by_p = {p: row_masks(of_corpus, p) for p in {segment.per_item(a.name) for a in segment.arrays}}
    return {a.name: by_p[segment.per_item(a.name)] for a in segment.arrays}


def _classes(segment: Segment, masks: Mapping[str, npt.NDArray[np.uint8]]) -> list[Json]:
    """Mask classes by chunk, for every size of chunks and every P that there is."""
    kinds = {(a.chunk_rows, a.rows_per_item): a.name for a in segment.arrays}
    found = []
    for (chunk_rows, per_item), name in sorted(kinds.items()):
        classes = classes_by_chunk(masks[name], chunk_rows)
        found.append({**classes, "rows_per_item": per_item} if per_item else classes)
    return found


def _forward(
    unit: Unit, context: Context, filling: Filling, guard: Guard
) -> BathyscopeError | None:
    """All batches of a unit. Returns what went wrong where other processes must not be left alone.

    They hold other parts of the model and wait for the batches that are left.
    """
    count = -(-unit.num_items // context.batch_items)
    left = unit.num_items
    failed: BathyscopeError | None = None
    in_flight: deque[torch.cuda.Event] = deque()
    for number, captured in enumerate(context.captures(context.batches(unit))):
        try:
            for name, activations in captured.items() if failed is None else ():
                last = name in context.channels_last
                rows = rows_of(name, activations, context.batch_items, channels_last=last)
                filling.add(name, rows[: min(left, context.batch_items)].flatten(0, 1))
            guard.progress((number + 1) / count)
        except BathyscopeError as error:
            if guard.turn is None:
                raise
            failed = error
        left -= context.batch_items
        if captured and context.device.type == "cuda":
            _bound(in_flight, captured)
    return failed


def _batches(config: Config, corpus: Corpus, dtype: torch.dtype, device: torch.device) -> Batches:
    count = config.hooks.batch_items
    if not corpus.has_images:
        return TokenBatches(corpus, count, device).of
    mean, deviation = config.model.image_mean, config.model.image_std
    return ImageBatches(corpus, count, device, dtype=dtype, mean=mean, deviation=deviation).of


def _bound(in_flight: deque[torch.cuda.Event], captured: dict[str, Tensor]) -> None:
    """Keep a few batches ahead of the GPUs, so that they never wait for each other or for us."""
    last = list(captured.values())[-1]
    in_flight.append(torch.cuda.current_stream(last.device).record_event())
    if len(in_flight) > _IN_FLIGHT:
        in_flight.popleft().synchronize()
