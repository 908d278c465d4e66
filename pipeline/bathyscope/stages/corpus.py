"""corpus: text becomes token sequences, deduplicated and split before anything else sees it.

Documents are taken in a seeded order, dropped when they repeat others, given to train or held
out by a hash of their text, tokenised and packed. One unit: deduplication looks at all documents
before a document. Each split is a segment of `corpus.zarr`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bathyscope.config import Config, DataConfig
from bathyscope.corpora.deduplicate import Deduplicator
from bathyscope.corpora.documents import Document
from bathyscope.corpora.order import shuffled
from bathyscope.corpora.packing import PackedSequence, pack
from bathyscope.corpora.sources import open_source
from bathyscope.corpora.split import Split, split_of
from bathyscope.errors import CorpusError
from bathyscope.models.tokenizers import (
    load_tokenizer,
    separator_id,
    special_ids,
    tokenizer_digest,
)
from bathyscope.runs.corpus import DOCUMENT, MASK, OFFSET, TOKENS
from bathyscope.runs.run import CORPUS
from bathyscope.runs.tables import to_parquet
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages.inputs import cache_folder, model_folder, source_options
from bathyscope.stages.layout import Column, lay_out
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.units import create_segment, write_unit
from bathyscope.values import HELD_OUT, TRAIN, Json, Receipt, Unit, UnitPlan

NAME = "corpus"
SEMANTICS = 1
_SPLITS = {Split.TRAIN: TRAIN, Split.HELD_OUT: HELD_OUT}
_BATCH = 64


@dataclass
class Context:
    """What the unit needs."""

    config: Config
    work: Work
    objects: Objects
    tokenizer: Any


@dataclass
class Taken:
    """Documents that were kept, and how far each split is filled."""

    names: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=lambda: {TRAIN: 0, HELD_OUT: 0})
    duplicates: int = 0
    seen: int = 0


def units(config: Config) -> Work:
    """One unit, identified by the source's versions, the tokenizer and the packing settings."""
    folder = model_folder(config)
    _, source = open_source(config.data.kind, source_options(config), cache_folder(config))
    data = config.data
    identity: Json = {
        "stage": NAME,
        "semantics": SEMANTICS,
        "source": source,
        "tokenizer": tokenizer_digest(folder),
        "sequence_length": data.sequence_length,
        "train_tokens": data.train_tokens,
        "held_out_tokens": data.held_out_tokens,
        "held_out_share": data.held_out_share,
        "seed": data.seed,
    }
    return Work(NAME, CORPUS, identity, UnitPlan((("all", 0, 1),), 1), unit_name="passes")


def open(config: Config, work: Work) -> Context:
    """The tokenizer and the store."""
    tokenizer = load_tokenizer(model_folder(config))
    return Context(config, work, Objects(config.url).at(CORPUS), tokenizer)


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Read, deduplicate, split, tokenise, pack and write all sequences."""
    data = context.config.data
    taken = Taken()
    documents: dict[str, list[tuple[int, list[int]]]] = {TRAIN: [], HELD_OUT: []}
    for split, index, tokens in _tokenised(context, taken, guard):
        documents[split].append((index, tokens))
    sequences = {split: _pack(context, documents[split], split) for split in (TRAIN, HELD_OUT)}
    first = 0
    ranges = []
    for split in (TRAIN, HELD_OUT):
        segment = _write_split(context, split, first, sequences[split], guard)
        ranges.append(segment.to_dict())
        first += len(sequences[split])
    key = f"documents/{context.work.segment.name}.parquet"
    context.objects.put(key, _documents_table(taken))
    figures = {
        "documents_key": key,
        "documents": len(taken.names),
        "documents_read": taken.seen,
        "duplicates": taken.duplicates,
        "segments": ranges,
        "train_tokens": len(sequences[TRAIN]) * data.sequence_length,
        "held_out_tokens": len(sequences[HELD_OUT]) * data.sequence_length,
    }
    return Outcome(valid=first, figures=figures)


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Publish the two segments that the unit wrote."""
    figures = dict(receipts[0].figures)
    segments = tuple(Segment.from_dict(s) for s in figures.pop("segments"))
    facts = {
        **figures,
        "sequence_length": config.data.sequence_length,
        "policy": (
            "Documents are concatenated, each opened by one separator token; no other BOS is "
            "added; attention crosses packed documents."
        ),
    }
    publish(begun, facts, segments=segments)
    return facts


def _tokenised(
    context: Context, taken: Taken, guard: Guard
) -> Iterator[tuple[str, int, list[int]]]:
    """(split, document number, token ids) of the documents that are kept."""
    data = context.config.data
    wanted = {TRAIN: data.train_tokens, HELD_OUT: data.held_out_tokens}
    for batch in _batches(_kept(context, taken, wanted)):
        texts = [document.text for _, document in batch]
        encoded = context.tokenizer(texts, add_special_tokens=False).input_ids
        for (split, document), ids in zip(batch, encoded, strict=True):
            if wanted[split] and taken.tokens[split] >= wanted[split]:
                continue
            taken.names.append(document.id)
            taken.splits.append(split)
            taken.num_tokens.append(len(ids))
            taken.digests.append(document.digest)
            taken.tokens[split] += len(ids) + 1
            yield split, len(taken.names) - 1, ids
        guard.progress(_filled(taken, wanted), f"{sum(taken.tokens.values()):,} tokens")
        if all(wanted[s] and taken.tokens[s] >= wanted[s] for s in wanted):
            return


def _kept(
    context: Context, taken: Taken, wanted: Mapping[str, int]
) -> Iterator[tuple[str, Document]]:
    data = context.config.data
    options, cache = source_options(context.config), cache_folder(context.config)
    documents, _ = open_source(data.kind, options, cache)
    deduplicator = Deduplicator()
    for document in shuffled(documents, data.seed):
        taken.seen += 1
        number = split_of(document.digest, held_out_share=data.held_out_share, seed=data.seed)
        split = _SPLITS[number]
        if wanted[split] and taken.tokens[split] >= wanted[split]:
            continue
        if deduplicator.is_duplicate(document.text):
            taken.duplicates += 1
            continue
        yield split, document


def _batches(
    documents: Iterator[tuple[str, Document]],
) -> Iterator[list[tuple[str, Document]]]:
    batch: list[tuple[str, Document]] = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _filled(taken: Taken, wanted: Mapping[str, int]) -> float:
    shares = [min(taken.tokens[s] / wanted[s], 1.0) for s in wanted if wanted[s]]
    return min(shares, default=0.0)


def _pack(
    context: Context, documents: list[tuple[int, list[int]]], split: str
) -> list[PackedSequence]:
    data = context.config.data
    sequences = list(
        pack(
            documents,
            sequence_length=data.sequence_length,
            separator_id=separator_id(context.tokenizer),
            special_ids=special_ids(context.tokenizer),
        )
    )
    if not sequences:
        tokens = sum(len(ids) + 1 for _, ids in documents)
        raise CorpusError(
            f"The {split.replace('_', '-')} documents hold {tokens} tokens, less than one "
            f"sequence of {data.sequence_length}. Give more text, a shorter "
            "data.sequence_length, or another data.held_out_share."
        )
    return sequences


def _write_split(
    context: Context, split: str, first: int, sequences: list[PackedSequence], guard: Guard
) -> Segment:
    segment = _segment(context, split, first, len(sequences))
    create_segment(context.objects, segment)
    rows: dict[str, npt.NDArray[Any]] = {
        TOKENS: np.stack([s.tokens for s in sequences]),
        DOCUMENT: np.stack([s.document for s in sequences]),
        OFFSET: np.stack([s.offset for s in sequences]),
        MASK: np.stack([s.mask for s in sequences]),
    }
    unit = segment.plan.units()[0]
    shards = write_unit(context.objects, segment, unit=unit, rows=rows, check=guard.check)
    receipt = Receipt(unit=0, term=0, valid=len(sequences), shards=shards)
    Receipts(context.objects, segment.name).create(receipt)
    return segment


def _segment(context: Context, split: str, first: int, num_items: int) -> Segment:
    length = (context.config.data.sequence_length,)
    columns = [
        Column(TOKENS, length, "uint32", "uint32"),
        Column(DOCUMENT, length, "uint32", "uint32"),
        Column(OFFSET, length, "uint32", "uint32"),
        Column(MASK, length, "uint8", "uint8"),
    ]
    arrays, rows_per_unit = lay_out(columns, unit_rows=num_items, store=context.config.store)
    plan = UnitPlan(((split, first, first + num_items),), num_items)
    return Segment(f"{context.work.segment.name}-{split}", plan, 1, arrays, rows_per_unit)


def _documents_table(taken: Taken) -> bytes:
    table = pa.table(
        {
            "name": taken.names,
            "split": taken.splits,
            "num_tokens": taken.num_tokens,
            "digest": taken.digests,
        }
    )
    return to_parquet(table)


def facts_for_plan(data: DataConfig) -> str:
    """One line for the plan: what text, how many tokens."""
    what = {
        "documentation": ", ".join(data.packages),
        "jsonl": ", ".join(data.paths),
        "hf": str(data.dataset),
    }[data.kind]
    return f"{data.kind} ({what}), {data.train_tokens or 'all':,} training tokens"
