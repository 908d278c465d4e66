"""From a stream of tokenised documents to the segments of a corpus, holding little of it.

Documents of both splits come in one stream and are dealt to a queue each; each split is packed, and
written as it fills.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bathyscope.corpora import packing
from bathyscope.corpora.packing import PackedSequence, pack
from bathyscope.runs.corpus import DOCUMENT, MASK, OFFSET, TOKENS
from bathyscope.stages.items import ItemWriter
from bathyscope.stages.layout import Column
from bathyscope.values import HELD_OUT, SPLITS, TRAIN


class TokenDocument(NamedTuple):
    """A document on its way into sequences."""

    split: str
    number: int
    """Its place in the documents table."""
    ids: Sequence[int]
    bits: npt.NDArray[np.uint8] | None = None
    """Bits of `Mask` that the source knows of every token."""


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

    def documents(self, split: str) -> Iterator[packing.TokenDocument]:
        """The documents of one split, in the order in which they come."""
        queue = self._queues[split]
        while queue or self._pull(split):
            document = queue.popleft()
            self.waiting_tokens[split] -= len(document.ids) + 1
            yield document.number, document.ids, document.bits

    def _pull(self, split: str) -> bool:
        """Read on until a document of the split has come; False at the end."""
        for document in self._source:
            self._queues[document.split].append(document)
            self.waiting_tokens[document.split] += len(document.ids) + 1
            if document.split == split:
                return True
        return False


def sequence_columns(length: int) -> list[Column]:
    """The arrays of a corpus of sequences of so many tokens."""
    columns = [Column(n, (length,), "uint32", "uint32") for n in (TOKENS, DOCUMENT, OFFSET)]
    return [*columns, Column(MASK, (length,), "uint8", "uint8")]


def write_sequences(
    documents: Iterator[TokenDocument], writers: Mapping[str, ItemWriter], settings: Packing
) -> None:
    """Pack both splits and write them.

    Held-out documents are packed whenever they make a sequence, so that neither queue grows.
    """
    dealt = Dealt(documents)
    packed = {split: pack(dealt.documents(split), **settings._asdict()) for split in SPLITS}
    for sequence in packed[TRAIN]:
        writers[TRAIN].add(_item(sequence))
        while dealt.waiting_tokens[HELD_OUT] >= settings.sequence_length:
            writers[HELD_OUT].add(_item(next(packed[HELD_OUT])))
    for sequence in packed[HELD_OUT]:
        writers[HELD_OUT].add(_item(sequence))


def _item(sequence: PackedSequence) -> dict[str, npt.NDArray[Any]]:
    return {
        TOKENS: sequence.tokens,
        DOCUMENT: sequence.document,
        OFFSET: sequence.offset,
        MASK: sequence.mask,
    }
