"""From a stream of tokenised documents to the segments of a corpus, holding little of it.

Documents of both splits come in one stream and are dealt to a queue each; each split is packed and
written in units of a fixed number of sequences as they fill.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bathyscope.config import StoreConfig
from bathyscope.corpora.packing import PackedSequence, pack
from bathyscope.runs.corpus import DOCUMENT, MASK, OFFSET, TOKENS
from bathyscope.stages.layout import Column, lay_out
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.units import create_segment, write_unit
from bathyscope.values import HELD_OUT, SPLITS, TRAIN, Receipt, Unit, UnitPlan

_MOST_ITEMS_PER_UNIT = 32768


class TokenDocument(NamedTuple):
    """A document on its way into sequences."""

    split: str
    number: int
    """Its place in the documents table."""
    ids: list[int]


class Packing(NamedTuple):
    """How documents become sequences."""

    sequence_length: int
    separator_id: int
    special_ids: Collection[int]


class Dealt:
    """One stream of documents, read as two: what is not asked for waits in its queue."""

    def __init__(self, source: Iterator[TokenDocument]) -> None:
        self._source = source
        self._queues: dict[str, deque[TokenDocument]] = {split: deque() for split in SPLITS}
        self.waiting_tokens = dict.fromkeys(SPLITS, 0)

    def documents(self, split: str) -> Iterator[tuple[int, list[int]]]:
        """The documents of one split, in the order in which they come."""
        queue = self._queues[split]
        while queue or self._pull(split):
            document = queue.popleft()
            self.waiting_tokens[split] -= len(document.ids) + 1
            yield document.number, document.ids

    def _pull(self, split: str) -> bool:
        """Read on until a document of the split has come; False at the end."""
        for document in self._source:
            self._queues[document.split].append(document)
            self.waiting_tokens[document.split] += len(document.ids) + 1
            if document.split == split:
                return True
        return False


class SplitWriter:
    """Writes the sequences of one split, a unit as soon as it is full."""

    def __init__(
        self,
        objects: Objects,
        name: str,
        *,
        length: int,
        expected_items: int,
        store: StoreConfig,
        check: Callable[[], None],
    ) -> None:
        self._objects = objects
        self._check = check
        self._fsync = store.fsync
        self._waiting: list[PackedSequence] = []
        self._items_per_unit = min(max(expected_items, 1), _MOST_ITEMS_PER_UNIT)
        columns = [Column(n, (length,), "uint32", "uint32") for n in (TOKENS, DOCUMENT, OFFSET)]
        columns.append(Column(MASK, (length,), "uint8", "uint8"))
        arrays, rows = lay_out(columns, unit_rows=self._items_per_unit, store=store)
        # The number of items is known at the end; shard keys do not depend on it.
        self._segment = Segment(name, UnitPlan((), self._items_per_unit), 1, arrays, rows)
        self.num_items = 0

    def add(self, sequence: PackedSequence) -> None:
        """Take one sequence."""
        self._waiting.append(sequence)
        if len(self._waiting) == self._items_per_unit:
            self._flush()

    def close(self, split: str, first_item: int) -> Segment:
        """Write what is left and the arrays' metadata; return the finished segment."""
        if self._waiting:
            self._flush()
        plan = UnitPlan(((split, first_item, first_item + self.num_items),), self._items_per_unit)
        segment = self._segment
        finished = Segment(segment.name, plan, 1, segment.arrays, segment.rows_per_unit)
        create_segment(self._objects, finished)
        return finished

    def _flush(self) -> None:
        rows: dict[str, npt.NDArray[Any]] = {
            TOKENS: np.stack([s.tokens for s in self._waiting]),
            DOCUMENT: np.stack([s.document for s in self._waiting]),
            OFFSET: np.stack([s.offset for s in self._waiting]),
            MASK: np.stack([s.mask for s in self._waiting]),
        }
        count = len(self._waiting)
        unit = Unit(self.num_items // self._items_per_unit, self.num_items, self.num_items + count)
        shards = write_unit(
            self._objects,
            self._segment,
            unit=unit,
            rows=rows,
            check=self._check,
            fsync=self._fsync,
        )
        receipt = Receipt(unit=unit.index, term=0, valid=count, shards=shards)
        Receipts(self._objects, self._segment.name).create(receipt)
        self.num_items += count
        self._waiting = []


def write_sequences(
    documents: Iterator[TokenDocument], writers: Mapping[str, SplitWriter], packing: Packing
) -> None:
    """Pack both splits and write them.

    Held-out documents are packed whenever they make a sequence, so that neither queue grows.
    """
    dealt = Dealt(documents)
    packed = {split: pack(dealt.documents(split), **packing._asdict()) for split in SPLITS}
    for sequence in packed[TRAIN]:
        writers[TRAIN].add(sequence)
        while dealt.waiting_tokens[HELD_OUT] >= packing.sequence_length:
            writers[HELD_OUT].add(next(packed[HELD_OUT]))
    for sequence in packed[HELD_OUT]:
        writers[HELD_OUT].add(sequence)
