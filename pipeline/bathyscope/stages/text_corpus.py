"""Text becomes token sequences, deduplicated and split before anything else sees it.

Documents are taken in a seeded order, dropped when they repeat others, given to train or held
out by a hash of their text, tokenised and packed; with a share of 1 all are held out. One unit:
whether a document repeats others depends on all before it. Each split is a segment of
`corpus.zarr`. What is held in memory is the table of documents, the hashes of their 13-grams and,
with `data.shuffle`, their texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from bathyscope.config import Config, DataConfig
from bathyscope.corpora.deduplicate import Deduplicator
from bathyscope.corpora.documents import Document
from bathyscope.corpora.order import shuffled
from bathyscope.corpora.sources import open_sources
from bathyscope.corpora.split import Split, split_of
from bathyscope.errors import CorpusError
from bathyscope.models.tokenizers import (
    load_tokenizer,
    separator_id,
    special_ids,
    tokenizer_digest,
)
from bathyscope.runs.run import CORPUS
from bathyscope.runs.tables import to_parquet
from bathyscope.runs.work import Work
from bathyscope.stages.inputs import cache_folder, model_folder, text_sources
from bathyscope.stages.items import ItemWriter, closed
from bathyscope.stages.sequences import Packing, TokenDocument, sequence_columns, write_sequences
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.stages.tokenised import tokenised
from bathyscope.stores.objects import Objects
from bathyscope.values import HELD_OUT, SPLITS, TRAIN, Json, Unit, UnitPlan

NAME = "corpus"
SEMANTICS = 1
_SPLITS = {Split.TRAIN: TRAIN, Split.HELD_OUT: HELD_OUT}
_BATCH = 64


@dataclass
class TextContext:
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

    def add(self, document: Document, split: str, num_tokens: int) -> int:
        """Note a document and return its number. Its separator counts as a token."""
        self.names.append(document.id)
        self.splits.append(split)
        self.num_tokens.append(num_tokens)
        self.digests.append(document.digest)
        self.tokens[split] += num_tokens + 1
        return len(self.names) - 1


def units(config: Config) -> Work:
    """One unit, identified by the source's versions, the tokenizer and the packing settings."""
    folder = model_folder(config)
    _, source = _source(config, load_tokenizer(folder))
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
        "shuffle": data.shuffle,
    }
    return Work(NAME, CORPUS, identity, UnitPlan((("all", 0, 1),), 1), unit_name="passes")


def open(config: Config, work: Work) -> TextContext:
    """The tokenizer and the store."""
    tokenizer = load_tokenizer(model_folder(config))
    return TextContext(config, work, Objects(config.url).at(CORPUS), tokenizer)


def run(unit: Unit, context: TextContext, guard: Guard) -> Outcome:
    """Read, deduplicate, split, tokenise, pack and write all sequences."""
    data = context.config.data
    name = context.work.segment.name
    taken = Taken()
    writers = {split: _writer(context, f"{name}-{split}", split, guard) for split in _splits(data)}
    packing = Packing(
        data.sequence_length, separator_id(context.tokenizer), special_ids(context.tokenizer)
    )
    write_sequences(_tokenised(context, taken, guard), writers, packing)
    for split, writer in writers.items():
        _check_enough(writer.num_taken, taken, split, data)
    segments, count = closed(writers)
    key = f"documents/{name}.parquet"
    context.objects.put(key, _documents_table(taken))
    figures = {
        "documents_key": key,
        "documents": len(taken.names),
        "documents_read": taken.seen,
        "duplicates": taken.duplicates,
        "segments": segments,
        **{f"{split}_tokens": 0 for split in SPLITS},
        **{f"{s}_tokens": w.num_items * data.sequence_length for s, w in writers.items()},
    }
    return Outcome(valid=count, figures=figures)


def facts(config: Config) -> Json:
    """What the manifest says besides the figures."""
    return {
        "sequence_length": config.data.sequence_length,
        "policy": (
            "Documents are concatenated, each opened by one separator token; no other BOS is "
            "added; attention crosses packed documents."
        ),
    }


def _splits(data: DataConfig) -> tuple[str, ...]:
    """Splits that documents go to: all are held out where nothing is trained on them."""
    return (HELD_OUT,) if data.held_out_share == 1 else SPLITS


def _tokenised(context: TextContext, taken: Taken, guard: Guard) -> Iterator[TokenDocument]:
    """The documents that are kept, until both splits have their tokens."""
    data = context.config.data
    wanted = {TRAIN: data.train_tokens, HELD_OUT: data.held_out_tokens}
    documents, _ = _source(context.config, context.tokenizer)
    for batch in _batches(kept_documents(data, documents, taken, wanted)):
        tokens = tokenised(context.tokenizer, [document for _, document in batch])
        for (split, document), (ids, bits) in zip(batch, tokens, strict=True):
            if not _full(taken, wanted, split):
                yield TokenDocument(split, taken.add(document, split, len(ids)), ids, bits)
        guard.check()
        guard.progress(_filled(taken, wanted), f"{sum(taken.tokens.values()):,} tokens")
        if all(_full(taken, wanted, split) for split in wanted):
            return


def documents_of(config: Config, tokenizer: Any) -> Iterable[Document]:
    """The documents of the configured text, in the order of their source."""
    return _source(config, tokenizer)[0]


def _source(config: Config, tokenizer: Any) -> tuple[Iterable[Document], Json]:
    """The documents, and the record that identifies them."""
    sources = text_sources(config)
    if config.data.kind == "tokens_bin":
        # It stands alone: nothing can be added to ids.
        sources[0][1].update(separator_id=separator_id(tokenizer), vocabulary=len(tokenizer))
    return open_sources(sources, cache_folder(config), tokenizer)


def kept_documents(
    data: DataConfig, documents: Iterable[Document], taken: Taken, wanted: Mapping[str, int]
) -> Iterator[tuple[str, Document]]:
    """Split and document, in order, of those that repeat nothing and whose split has room."""
    deduplicator = Deduplicator()
    for document in shuffled(documents, data.seed) if data.shuffle else documents:
        taken.seen += 1
        number = split_of(document.digest, held_out_share=data.held_out_share, seed=data.seed)
        split = _SPLITS[number]
        if _full(taken, wanted, split):
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


def _full(taken: Taken, wanted: Mapping[str, int], split: str) -> bool:
    return bool(wanted[split]) and taken.tokens[split] >= wanted[split]


def _filled(taken: Taken, wanted: Mapping[str, int]) -> float:
    shares = [min(taken.tokens[s] / wanted[s], 1.0) for s in wanted if wanted[s]]
    return min(shares, default=0.0)


def _writer(context: TextContext, name: str, split: str, guard: Guard) -> ItemWriter:
    data = context.config.data
    wanted = data.train_tokens if split == TRAIN else data.held_out_tokens
    return ItemWriter(
        context.objects,
        name,
        sequence_columns(data.sequence_length),
        # Without a limit the number of items is unknown: then units have their full size.
        expected_items=wanted // data.sequence_length if wanted else 2**62,
        store=context.config.store,
        check=guard.check,
    )


def _check_enough(num_items: int, taken: Taken, split: str, data: DataConfig) -> None:
    if num_items == 0:
        raise CorpusError(
            f"The {split.replace('_', '-')} documents hold {taken.tokens[split]} tokens, less than "
            f"one sequence of {data.sequence_length}. Give more text, a shorter "
            "data.sequence_length, or another data.held_out_share."
        )


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


def facts_for_plan(config: Config) -> str:
    """One line for the plan: what text, how many tokens."""
    data = config.data
    named = {"documentation": ", ".join(data.packages), "hf": str(data.dataset)}
    what = named.get(data.kind, ", ".join(data.paths))
    kinds = " and ".join([f"{data.kind} ({what})" if what else data.kind, *data.also])
    count = f"{data.train_tokens:,}" if data.train_tokens else "all"
    return f"{kinds}, {count} training tokens"
