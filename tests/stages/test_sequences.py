"""Documents of both splits come in one stream; what is written is what packing alone gives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from bathyscope.config import StoreConfig
from bathyscope.corpora.packing import pack
from bathyscope.runs.corpus import DOCUMENT, OFFSET, TOKENS
from bathyscope.stages import sequences
from bathyscope.stages.items import ItemWriter
from bathyscope.stages.sequences import (
    Dealt,
    Packing,
    TokenDocument,
    sequence_columns,
    write_sequences,
)
from bathyscope.stores.objects import Objects
from bathyscope.stores.rows import SegmentReader
from bathyscope.values import HELD_OUT, SPLITS, TRAIN

LENGTH = 8
PACKING = Packing(LENGTH, separator_id=0, special_ids=(0,))


def documents(count: int = 60) -> list[TokenDocument]:
    """Every fifth document is held out; lengths from 1 to 13."""
    rng = np.random.default_rng(0)
    return [
        TokenDocument(
            HELD_OUT if i % 5 == 4 else TRAIN,
            i,
            rng.integers(1, 100, size=1 + i * 7 % 13).tolist(),
        )
        for i in range(count)
    ]


def written(count: int, expected_items: int) -> dict[str, SegmentReader]:
    objects = Objects(f"memory://sequences-{count}-{expected_items}")
    writers = {
        split: ItemWriter(
            objects,
            split,
            sequence_columns(LENGTH),
            expected_items=expected_items,
            store=StoreConfig(chunk_bytes=128),
            check=lambda: None,
        )
        for split in SPLITS
    }
    write_sequences(iter(documents(count)), writers, PACKING)
    return {
        split: SegmentReader(objects, writer.close(split, 0)) for split, writer in writers.items()
    }


@pytest.mark.parametrize("expected_items", [5, 16, 1000])
def test_both_splits_are_packed_as_if_alone(expected_items: int) -> None:
    readers = written(60, expected_items)
    for split, reader in readers.items():
        alone = list(
            pack(((d.number, d.ids) for d in documents() if d.split == split), **PACKING._asdict())
        )
        units = reader.units
        assert sum(u.num_items for u in units) == len(alone)
        assert all(u.num_items == min(expected_items, len(alone)) for u in units[:-1])
        for name, field in ((TOKENS, "tokens"), (DOCUMENT, "document"), (OFFSET, "offset")):
            rows = np.concatenate([reader.read(name, unit) for unit in units])
            np.testing.assert_array_equal(rows, np.stack([getattr(s, field) for s in alone]))


def test_neither_queue_grows_with_the_corpus() -> None:
    seen: list[int] = []

    def watched(dealt: list[Dealt]) -> Iterator[TokenDocument]:
        for document in documents(2000):
            yield document
            if dealt:
                seen.append(max(dealt[0].waiting_tokens.values()))

    made: list[Dealt] = []

    class Watched(Dealt):
        def __init__(self, source: Iterator[TokenDocument]) -> None:
            super().__init__(source)
            made.append(self)

    original = sequences.Dealt
    sequences.Dealt = Watched  # type: ignore[misc]
    try:
        writers = {
            split: ItemWriter(
                Objects("memory://queues"),
                split,
                sequence_columns(LENGTH),
                expected_items=100,
                store=StoreConfig(),
                check=lambda: None,
            )
            for split in SPLITS
        }
        write_sequences(watched(made), writers, PACKING)
    finally:
        sequences.Dealt = original  # type: ignore[misc]
    # A sequence, the longest document, and the few documents of the other split in between.
    assert max(seen) <= LENGTH + 14 + 5 * 14


def test_a_split_without_documents_has_no_sequences() -> None:
    only_train = [d for d in documents() if d.split == TRAIN]
    objects = Objects("memory://one-sided")
    writers = {
        split: ItemWriter(
            objects,
            split,
            sequence_columns(LENGTH),
            expected_items=10,
            store=StoreConfig(),
            check=lambda: None,
        )
        for split in SPLITS
    }
    write_sequences(iter(only_train), writers, PACKING)
    assert writers[HELD_OUT].num_items == 0
    assert writers[TRAIN].num_items > 0
