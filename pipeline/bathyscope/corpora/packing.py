"""Documents become sequences of one length, without padding.

Documents are laid end to end, each opened by one separator token, and the stream is cut every
`sequence_length` tokens. Attention crosses the documents packed into a sequence, as it did when
most models were trained. No BOS is added per sequence: the separators play that role, the stream
begins with one, and a sequence that begins inside a document begins with an ordinary token.
The caller packs each split on its own, so no sequence holds text of both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bathyscope.corpora.masks import Mask
from bathyscope.errors import ConfigError, CorpusError

_UINT32_END = 2**32

TokenIds = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True, eq=False, slots=True)
class PackedSequence:
    """One sequence of P tokens and, for each token, where it comes from."""

    tokens: NDArray[np.uint32]
    """[P] token ids."""
    document: NDArray[np.uint32]
    """[P] index of the token's document; a separator belongs to the document that it opens."""
    offset: NDArray[np.uint32]
    """[P] place in the document: 0 is the separator, n is `token_ids[n - 1]`."""
    mask: NDArray[np.uint8]
    """[P] bits of `Mask`."""


TokenDocument = tuple[int, TokenIds] | tuple[int, TokenIds, NDArray[np.uint8] | None]
"""Number, ids and, where they are known, bits of `Mask`."""


class _Stream(NamedTuple):
    tokens: NDArray[np.uint32]
    document: NDArray[np.uint32]
    offset: NDArray[np.uint32]
    bits: NDArray[np.uint8]

    def part(self, start: int, stop: int | None = None) -> _Stream:
        return _Stream(
            self.tokens[start:stop],
            self.document[start:stop],
            self.offset[start:stop],
            self.bits[start:stop],
        )


class Packing(Iterator[PackedSequence]):
    """An iterator of sequences that counts what it has used; made by `pack`.

    Every token that was read is in a sequence that was given out or, once the iterator is
    exhausted, in `num_dropped_tokens`. Separators count as tokens.
    """

    def __init__(
        self,
        token_documents: Iterable[TokenDocument],
        *,
        sequence_length: int,
        separator_id: int,
        special_ids: Collection[int],
    ) -> None:
        self.num_documents = 0
        """Documents read that hold at least one token."""
        self.num_empty_documents = 0
        """Documents without a token: they get no separator and leave no trace."""
        self.num_sequences = 0
        self.num_dropped_tokens = 0
        """Length of the ragged tail, known once the iterator is exhausted."""
        self._length = sequence_length
        self._separator_id = separator_id
        self._special_ids = np.array(sorted(special_ids), dtype=np.int64)
        self._sequences = self._pack(token_documents)

    def __next__(self) -> PackedSequence:
        sequence = next(self._sequences)
        self.num_sequences += 1
        return sequence

    def _pack(self, token_documents: Iterable[TokenDocument]) -> Iterator[PackedSequence]:
        waiting: list[_Stream] = []
        num_waiting = 0
        for document_index, token_ids, *rest in token_documents:
            if len(token_ids) == 0:
                self.num_empty_documents += 1
                continue
            self.num_documents += 1
            bits = rest[0] if rest else None
            waiting.append(
                _opened(document_index, token_ids, bits, separator_id=self._separator_id)
            )
            num_waiting += len(token_ids) + 1
            if num_waiting >= self._length:
                stream = _Stream(*map(np.concatenate, zip(*waiting, strict=True)))
                num_waiting %= self._length
                cut = len(stream.tokens) - num_waiting
                yield from (self._sequence(stream, at) for at in range(0, cut, self._length))
                waiting = [stream.part(cut)]
        self.num_dropped_tokens = num_waiting

    def _sequence(self, stream: _Stream, start: int) -> PackedSequence:
        tokens, document, offset, bits = stream.part(start, start + self._length)
        mask = bits.copy()
        mask[0] |= np.uint8(Mask.FIRST)
        mask[np.isin(tokens, self._special_ids)] |= np.uint8(Mask.SPECIAL)
        mask[offset == 1] |= np.uint8(Mask.DOCUMENT_START)
        return PackedSequence(tokens, document, offset, mask)


def pack(
    token_documents: Iterable[TokenDocument],
    *,
    sequence_length: int,
    separator_id: int,
    special_ids: Collection[int],
) -> Packing:
    """Cut documents of tokens into sequences of one length.

    Each is (document_index, token_ids), or with a third part: bits of `Mask` of every token.

    Streams: at most one document and one sequence are held at a time. The tail that fills no
    sequence is dropped and counted. A separator is marked SPECIAL only if it is in `special_ids`.

    Raises `ConfigError` for a length below 1 or a separator that is no uint32, and, while
    iterating, `CorpusError` for a token id or document index that is none.
    """
    if sequence_length < 1:
        raise ConfigError(
            f"A sequence length of {sequence_length} was asked for; it must be at least 1."
        )
    if not 0 <= separator_id < _UINT32_END:
        raise ConfigError(
            f"The separator token id is {separator_id}; it must be from 0 to 2**32 - 1. "
            "Take the tokenizer's BOS or end-of-text id."
        )
    return Packing(
        token_documents,
        sequence_length=sequence_length,
        separator_id=separator_id,
        special_ids=special_ids,
    )


def _opened(
    document_index: int, token_ids: TokenIds, bits: NDArray[np.uint8] | None, *, separator_id: int
) -> _Stream:
    """Return one document as a stream: its separator, then its tokens."""
    given = np.asarray(token_ids)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise CorpusError(
            f"Document {document_index} has token ids of shape {given.shape} and dtype "
            f"{given.dtype}; one flat list of integers was wanted."
        )
    if given.min() < 0 or given.max() >= _UINT32_END or not 0 <= document_index < _UINT32_END:
        raise CorpusError(
            f"Document {document_index} has token ids from {given.min()} to {given.max()}; ids and "
            "document indices are stored as uint32, so they must be from 0 to 2**32 - 1."
        )
    tokens = np.empty(len(given) + 1, dtype=np.uint32)
    tokens[0] = separator_id
    tokens[1:] = given
    of_tokens = np.zeros(len(tokens), dtype=np.uint8)
    if bits is not None:
        assert len(bits) == len(given), (len(bits), len(given))
        of_tokens[1:] = bits
    return _Stream(
        tokens,
        np.full(len(tokens), document_index, dtype=np.uint32),
        np.arange(len(tokens), dtype=np.uint32),
        of_tokens,
    )
