"""Text that several tokenizers cut, compared by spans: from one common end of tokens to the next.

Positions are characters of a document. A span ends where every tokenizer ends a token, and starts
where the span before ended, so that all of them have read the same text at its end:

    tokenizer 1    The | spec | ies |  of
    tokenizer 2    The | species    |  of
    spans          The | species    |  of

A token that ends inside a character ends no span. What a model says of a span:

- a latent: its maximum over the tokens, whether it fires anywhere in the span. A sum, or a mean,
  would grow, or shrink, with the number of tokens, which is the tokenizer's and not the model's.
- its row: that of the last token, the one that has read the whole span and nothing after it. A mean
  would mix in rows that have read a part, and be of less variance the more tokens there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from bathyscope.studies.sparse_rows import Integers

NO_END = -1
"""In place of a position: a token that ends inside a character."""
NO_SPAN = -1
"""In place of the number of a span: a token of none."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def token_ends(starts: Integers, stops: Integers) -> Integers:
    """Position at which each token of a text ends [tokens], `NO_END` inside a character.

    `starts` and `stops` are the characters that a token has a part of, as tokenizers give them: of
    two tokens that share a character, the first does not end it. Raises `ValueError` where tokens
    are not in the order of the text.
    """
    if starts.shape != stops.shape or starts.ndim != 1:
        raise ValueError(
            f"starts are {starts.shape} and stops {stops.shape}: wanted one of a token"
        )
    if (np.diff(starts) < 0).any() or (np.diff(stops) < 0).any() or (stops < starts).any():
        raise ValueError("the tokens do not follow one another in the text")
    ends = stops.astype(np.int64)
    ends[:-1][starts[1:] < stops[:-1]] = NO_END
    return ends


def common_ends(ends: Sequence[Integers]) -> Integers:
    """Positions at which all of several tokenizers end a token, ascending [spans]."""
    own = [np.unique(each[each != NO_END]) for each in ends]
    found: Integers = reduce(np.intersect1d, own)
    return found


def spans_of_tokens(ends: Integers, common: Integers) -> Integers:
    """Number of the span that each token is of [tokens]; `NO_SPAN` after the last common end.

    Of tokens without a character of their own, which end where the one before does, none starts a
    span. `common` are ends of these tokens.
    """
    ended = np.flatnonzero(ends != NO_END)
    last = ended[np.searchsorted(ends[ended], common, side="right") - 1]
    spans = np.searchsorted(last, np.arange(len(ends)))
    return np.where(spans < len(common), spans, NO_SPAN)


def last_tokens(spans: Integers, num_spans: int) -> Integers:
    """Place of the last token of each span [num_spans], of tokens of all spans in order."""
    places = np.full(num_spans, -1, dtype=np.int64)
    inside = np.flatnonzero(spans != NO_SPAN)
    # Of several the last one stays.
    places[spans[inside]] = inside
    return places


def renumbered(spans: Integers, kept: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Integers:
    """The same with the spans that are kept [spans] counted anew, and no number for the others."""
    numbers = np.where(kept, np.cumsum(kept) - 1, NO_SPAN)
    inside = spans != NO_SPAN
    found = np.full(len(spans), NO_SPAN, dtype=np.int64)
    found[inside] = numbers[spans[inside]]
    return found


def pool_max(
    values: Tensor, indices: Tensor, spans: Integers, num_spans: int
) -> tuple[Tensor, Tensor]:
    """Maximum of each latent over the tokens of each span, as top-k latents [num_spans, m].

    `values` and `indices` are those of tokens [tokens, k], 0 where nothing fires. m is the most
    latents that any span has, at least 1, so that what is held does not grow with the latents;
    within a span they are in the order of their numbers, and empty places have value 0.
    """
    row, slot = np.nonzero(values.numpy())
    row, slot = row[spans[row] != NO_SPAN], slot[spans[row] != NO_SPAN]
    span, latent = spans[row], indices.numpy()[row, slot].astype(np.int64)
    amount = values.numpy()[row, slot]
    order = np.lexsort((-amount, latent, span))
    span, latent, amount = span[order], latent[order], amount[order]
    # The first of each latent in a span is its largest.
    first = np.ones(len(span), dtype=bool)
    first[1:] = (span[1:] != span[:-1]) | (latent[1:] != latent[:-1])
    span, latent, amount = span[first], latent[first], amount[first]
    counts = np.bincount(span, minlength=num_spans)
    place = np.arange(len(span)) - (np.cumsum(counts) - counts)[span]
    most = max(int(counts.max(initial=0)), 1)
    pooled = torch.zeros(num_spans, most, dtype=values.dtype)
    numbers = torch.zeros(num_spans, most, dtype=torch.int64)
    at = torch.from_numpy(span), torch.from_numpy(place)
    pooled[at] = torch.from_numpy(amount)
    numbers[at] = torch.from_numpy(latent)
    return pooled, numbers


def span_keys(ids: Integers, spans: Integers, num_spans: int) -> Integers:
    """A number for the token ids of each span, in order, equal where these are [num_spans].

    64 bits of a hash: of 10^7 different spans two are taken for one with a chance of 3 · 10⁻⁶.
    """
    keys = np.zeros(num_spans, dtype=np.uint64)
    inside = np.flatnonzero(spans != NO_SPAN)
    # The place of each token within its span.
    new = np.ones(len(inside), dtype=bool)
    new[1:] = np.diff(spans[inside]) != 0
    starts = np.maximum.accumulate(np.where(new, np.arange(len(inside)), 0))
    step = np.arange(len(inside)) - starts
    for place in range(int(step.max(initial=-1)) + 1):
        some = inside[step == place]
        at = spans[some]
        keys[at] = _mixed(keys[at] * _MULTIPLIER + ids[some].astype(np.uint64) + np.uint64(1))
    found: Integers = keys.view(np.int64)
    return found


def joint_keys(keys: Sequence[Integers]) -> Integers:
    """A number for the keys of several tokenizers together [spans]; one alone stays as it is."""

    def joined(first: Integers, second: Integers) -> Integers:
        both = first.view(np.uint64) * _MULTIPLIER + second.view(np.uint64)
        found: Integers = _mixed(both).view(np.int64)
        return found

    return reduce(joined, keys)


def _mixed(
    keys: np.ndarray[tuple[int], np.dtype[np.uint64]],
) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Spread the bits of each key over all of its bits (the finaliser of splitmix64)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
