"""Spans of text in two members, in place of rows: of a family in which tokenizers differ.

All pairs of the family are of the same spans, those that end where every tokenizer of the family
ends a token: so ceilings, pairs and floors are figures of one text, cut in one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bathyscope.errors import ConfigError
from bathyscope.models.tokenizers import load_tokenizer
from bathyscope.stages.inputs import model_folder
from bathyscope.stages.studies.aligned_text import CutText, align
from bathyscope.stages.studies.opened import ITEMS, OpenedMember
from bathyscope.stages.studies.paired_rows import Paired, Side, counted_up, latents_of, rows_of
from bathyscope.studies.spans import NO_SPAN, last_tokens, pool_max
from bathyscope.studies.sparse_rows import Integers
from bathyscope.values import HELD_OUT, TRAIN, Json

SPANS = "spans of text"
"""What pairs are aligned by, as rows of the table name it."""


def read_spans(
    first: Side, second: Side, readers: Sequence[OpenedMember], tokens: tuple[int, int]
) -> tuple[Paired, Paired, Json]:
    """Held-out and training spans of about so many tokens, and how they were aligned.

    `readers` are members of each tokenizer. In place of tokens stand the tokens of a span together,
    by all tokenizers. Raises `CorpusError` for text that cannot be aligned, and `ModelError` for
    a tokenizer that does not say where its tokens lie.
    """
    tokenizers = [load_tokenizer(model_folder(reader.config)) for reader in readers]
    held_out, told = _read(first, second, readers, tokenizers, HELD_OUT, tokens[0])
    train, _ = _read(first, second, readers, tokenizers, TRAIN, tokens[1])
    return *_numbered(held_out, train), told


def _read(
    first: Side,
    second: Side,
    readers: Sequence[OpenedMember],
    tokenizers: Sequence[Any],
    split: str,
    tokens: int,
) -> tuple[Paired, Json]:
    cuts = [
        CutText(reader.corpus, tokenizer, split, tokens)
        for reader, tokenizer in zip(readers, tokenizers, strict=True)
    ]
    aligned = align(cuts)
    places = [_place(side.opened, readers) for side in (first, second)]
    sides = [
        _side(side, cuts[place].items[0], aligned.spans[place], len(aligned))
        for side, place in zip((first, second), places, strict=True)
    ]
    (x, a), (y, b) = sides
    figures = {k: v for k, v in aligned.figures.items() if k != "span_tokens"}
    for name, place in zip("ab", places, strict=True):
        figures[f"tokens_per_span_{name}"] = aligned.figures["span_tokens"][place]
        figures[f"vocabulary_{name}"] = len(tokenizers[place])
    figures["tokenizers"] = len(readers)
    return Paired(
        x, y, a, b, counted_up(aligned.documents), torch.from_numpy(aligned.keys)
    ), figures


def _place(opened: OpenedMember, readers: Sequence[OpenedMember]) -> int:
    """Which tokenizer a member has. Raises `ConfigError` where its rows are not tokens."""
    if opened.rows.per_item != opened.corpus.sequence_length:
        raise ConfigError(
            f"{opened.rows.name} of {opened.config.url} gives {opened.rows.per_item} rows of a "
            f"sequence of {opened.corpus.sequence_length} tokens. Spans of text want a row for "
            "each token: name another hook point."
        )
    own = opened.corpus.identity
    return next(i for i, reader in enumerate(readers) if reader.corpus.identity == own)


def _side(
    side: Side, first_item: int, spans: Integers, num_spans: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Row of each span's last token [spans, d], and the maxima of latents over its tokens.

    Items after the last span are not read.
    """
    per_item = side.opened.rows.per_item
    inside = np.flatnonzero(spans != NO_SPAN)
    stop = first_item + int(inside[-1]) // per_item + 1
    last = last_tokens(spans, num_spans)
    x: Tensor | None = None
    pooled: list[tuple[Tensor, Tensor]] = []
    for start in range(first_item, stop, ITEMS):
        here = start, min(start + ITEMS, stop)
        begin, end = ((item - first_item) * per_item for item in here)
        some = inside[np.searchsorted(inside, begin) : np.searchsorted(inside, end)]
        rows = rows_of(side.opened, here)
        pooled.append(latents_of(side.dictionary, rows[torch.from_numpy(some - begin)]))
        if x is None:
            x = torch.empty(num_spans, rows.shape[1])
        ended = np.flatnonzero((last >= begin) & (last < end))
        x[torch.from_numpy(ended)] = rows[torch.from_numpy(last[ended] - begin)]
    assert x is not None, "there is a span"
    values, indices = (torch.cat(parts) for parts in zip(*pooled, strict=True))
    return x, pool_max(values, indices, spans[inside], num_spans)


def _numbered(held_out: Paired, train: Paired) -> tuple[Paired, Paired]:
    """The keys of both as numbers from 0 on, as token ids are."""
    assert held_out.tokens is not None, "spans have keys"
    assert train.tokens is not None, "spans have keys"
    _, numbers = torch.unique(torch.cat([held_out.tokens, train.tokens]), return_inverse=True)
    parts = numbers.split([len(held_out), len(train)])
    return replace(held_out, tokens=parts[0]), replace(train, tokens=parts[1])
