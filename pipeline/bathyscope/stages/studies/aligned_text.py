"""The same documents cut by several tokenizers, aligned by spans of their text.

The text of a document is what its tokens decode to. It is encoded again for the characters of each
token; where that gives other tokens, or tokenizers decode to other texts, the document is left out
and counted, and with many of them the comparison is refused. A document that the end of what was
read cuts off is taken as far as it is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bathyscope.errors import CorpusError, ModelError
from bathyscope.runs.corpus import Corpus
from bathyscope.stages.masks import kept
from bathyscope.studies.spans import (
    NO_SPAN,
    common_ends,
    joint_keys,
    renumbered,
    span_keys,
    spans_of_tokens,
    token_ends,
)
from bathyscope.studies.sparse_rows import Integers
from bathyscope.values import Json

MOST_TOKENS = 16
"""Of a span by any tokenizer: a maximum over more says little, and what is held is bounded."""
MOST_DROPPED = 0.2
"""Share of the documents that may be left out before tokenizers count as not comparable."""
_Key = tuple[str, str]


class Piece(NamedTuple):
    """A document as far as one tokenizer has it."""

    text: str
    ends: Integers
    """End of each token, the separator before it first [tokens]; fewer than there are where the
    document is cut off and its last tokens cannot be placed."""
    whole: bool

    @property
    def length(self) -> int:
        """Characters that are known to be the document's."""
        return len(self.text) if self.whole else int(self.ends.max(initial=0))


class CutText:
    """The first items of a split by one tokenizer."""

    def __init__(self, corpus: Corpus, tokenizer: Any, split: str, tokens: int) -> None:
        """Raises `ModelError` for a tokenizer that does not say where its tokens lie."""
        require_offsets(tokenizer)
        self.corpus, self._tokenizer = corpus, tokenizer
        there = corpus.split_range(split)
        most = max(tokens // corpus.sequence_length, 1)
        self.items = there.start, min(there.stop, there.start + most)

    @cached_property
    def ids(self) -> Integers:
        """Token ids, end to end [tokens]."""
        return self.corpus.tokens(*self.items).flatten().numpy()

    @cached_property
    def keep(self) -> NDArray[np.bool_]:
        """Which tokens count [tokens]."""
        return kept(self.corpus.masks(*self.items)).reshape(-1)

    @cached_property
    def places(self) -> dict[_Key, tuple[int, slice]]:
        """Of each document its number in the corpus and its tokens, by name and digest."""
        numbers = self.corpus.documents(*self.items).reshape(-1).astype(np.int64)
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        names, digests = self.corpus.document_names, self.corpus.document_digests
        found = {}
        for start, stop in pairwise(cuts):
            number = int(numbers[start])
            found[names[number], digests[number]] = number, slice(start, stop)
        return found

    def pieces(self, keys: Sequence[_Key]) -> list[Piece | None]:
        """The documents by name; None for one that encodes to other tokens than it has."""
        if not keys:
            return []
        places = [self.places[key] for key in keys]
        # The separator stands before the text.
        bodies = [self.ids[place.start + 1 : place.stop] for _, place in places]
        texts = [
            self._tokenizer.decode(
                body.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            for body in bodies
        ]
        encoded = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        lengths = self.corpus.document_lengths
        return [
            _piece(text, body, np.array(ids, dtype=np.int64), offsets, lengths[number] == len(body))
            for (number, _), text, body, ids, offsets in zip(
                places, texts, bodies, encoded.input_ids, encoded.offset_mapping, strict=True
            )
        ]


@dataclass(frozen=True)
class Aligned:
    """Spans of a split, numbered in the order of the text."""

    spans: list[Integers]
    """By tokenizer: the span of each token of its items [tokens], -1 for one of none."""
    documents: Tensor
    """Number of each span's document [spans]."""
    keys: Integers
    """Equal where all tokenizers have the same tokens in a span [spans]."""
    figures: Json

    def __len__(self) -> int:
        return len(self.documents)


@dataclass
class _Counts:
    used: int = 0
    recoded: int = 0
    differing: int = 0
    example: str = ""

    @property
    def dropped(self) -> int:
        return self.recoded + self.differing


def require_offsets(tokenizer: Any, name: str = "") -> None:
    """Raise `ModelError` for a tokenizer that does not say where its tokens lie."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"Models of several tokenizers are compared by spans of text, which needs to know "
            f"where tokens lie, and {type(tokenizer).__name__} {f'of {name} ' * bool(name)}does "
            "not say so. Give the model folder a tokenizer.json, or leave the model out by "
            "family.models."
        )


def align(cuts: Sequence[CutText]) -> Aligned:
    """Spans of the documents that all have.

    Raises `CorpusError` where there are none, or too many documents cannot be compared.
    """
    keys = [key for key in cuts[0].places if all(key in cut.places for cut in cuts[1:])]
    if not keys:
        raise CorpusError(
            "The corpora of the tokenizers have no document in common. A chat template writes its "
            "own text into each, and other settings of data read others: one plain source for all "
            "is wanted."
        )
    spans = [np.full(len(cut.ids), NO_SPAN, dtype=np.int64) for cut in cuts]
    documents, counts = [], _Counts()
    num_spans = 0
    for number, (key, *pieces) in enumerate(
        zip(keys, *(cut.pieces(keys) for cut in cuts), strict=True)
    ):
        known = [piece for piece in pieces if piece is not None]
        if not _comparable(key, pieces, known, counts):
            continue
        common = common_ends([piece.ends for piece in known])
        for cut, own, piece in zip(cuts, spans, known, strict=True):
            found = spans_of_tokens(piece.ends, common)
            start = cut.places[key][1].start
            own[start : start + len(found)] = np.where(found == NO_SPAN, NO_SPAN, found + num_spans)
        documents.append(np.full(len(common), number, dtype=np.int64))
        num_spans += len(common)
    _check(counts)
    return _chosen(cuts, spans, np.concatenate(documents), counts)


def _piece(
    text: str, body: Integers, again: Integers, offsets: Sequence[tuple[int, int]], whole: bool
) -> Piece | None:
    starts, stops = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    try:
        ends = np.concatenate([[0], token_ends(starts, stops)])
    except ValueError:
        return None
    shared = min(len(body), len(again))
    other = np.flatnonzero(body[:shared] != again[:shared])
    same = int(other[0]) if len(other) else shared
    if whole and not same == len(body) == len(again):
        return None
    # What follows the cut may be what ended the last tokens.
    return Piece(text, ends[: same + 1], whole)


def _comparable(
    key: _Key, pieces: Sequence[Piece | None], known: Sequence[Piece], counts: _Counts
) -> bool:
    """Whether all have the document, and the same text of it; counted otherwise."""
    if len(known) < len(pieces):
        counts.recoded += 1
        counts.example = counts.example or f"{key[0]!r} does not encode to its own tokens"
        return False
    length = min(piece.length for piece in known)
    texts = {piece.text if piece.whole and length == piece.length else piece.text[:length]
             for piece in known}  # fmt: skip
    if len(texts) > 1 or len({len(piece.text) for piece in known if piece.whole}) > 1:
        counts.differing += 1
        counts.example = counts.example or f"{key[0]!r} decodes to other texts"
        return False
    counts.used += 1
    return True


def _check(counts: _Counts) -> None:
    total = counts.used + counts.dropped
    if counts.used == 0 or counts.dropped > MOST_DROPPED * total:
        raise CorpusError(
            f"Of {total} documents that all tokenizers have, {counts.recoded} do not encode to "
            f"their own tokens again and {counts.differing} decode to other texts (such as: "
            f"{counts.example}); at most {MOST_DROPPED:.0%} may. A tokenizer that changes text, "
            "to lower case for instance, cannot be aligned with one that keeps it: leave its "
            "models out by family.models."
        )


def _chosen(
    cuts: Sequence[CutText], spans: list[Integers], documents: Integers, counts: _Counts
) -> Aligned:
    """Without spans that hold a position which does not count, and without long ones."""
    num = len(documents)
    masked, long = np.zeros(num, dtype=bool), np.zeros(num, dtype=bool)
    for cut, own in zip(cuts, spans, strict=True):
        inside = own != NO_SPAN
        masked[own[inside & ~cut.keep]] = True
        long |= np.bincount(own[inside], minlength=num) > MOST_TOKENS
    chosen = ~masked & ~long
    spans = [renumbered(own, chosen) for own in spans]
    left = int(chosen.sum())
    if left == 0:
        raise CorpusError(
            f"None of {num} spans of text is left: {int(masked.sum())} hold a first position, and "
            f"{int(long.sum())} are of more than {MOST_TOKENS} tokens. Give more text."
        )
    keys = [span_keys(cut.ids, own, left) for cut, own in zip(cuts, spans, strict=True)]
    figures: Json = {
        "documents_recoded": counts.recoded,
        "documents_differing": counts.differing,
        "spans_masked": int(masked.sum()),
        "spans_long": int((long & ~masked).sum()),
        "span_tokens": [int((own != NO_SPAN).sum()) / left for own in spans],
    }
    return Aligned(spans, torch.from_numpy(documents[chosen]), joint_keys(keys), figures)
