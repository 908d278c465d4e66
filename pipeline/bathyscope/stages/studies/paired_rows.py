"""Rows of two members from the same places, and the latents of a dictionary of each on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError
from bathyscope.runs.activations import row_masks
from bathyscope.stages.masks import kept
from bathyscope.stages.studies.opened import ITEMS, OpenedMember
from bathyscope.studies.floors import permute_documents, permute_rows

_BLOCK = 4096
ROWS, DOCUMENTS = "rows", "documents"
"""What a floor shuffles."""


T = TypeVar("T")


class Blocks(Sequence[T]):
    """Sums of blocks of rows, made when they are asked for: all at once may not fit."""

    def __init__(self, cuts: Sequence[slice], make: Callable[[slice], T]) -> None:
        self._cuts, self._make = cuts, make

    def __len__(self) -> int:
        return len(self._cuts)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """The sums of a block."""
        if isinstance(index, slice):
            return [self._make(cut) for cut in self._cuts[index]]
        return self._make(self._cuts[index])


@dataclass(frozen=True)
class Side:
    """One of the two: where it is read, and with which dictionary."""

    opened: OpenedMember
    dictionary: AnyDictionary


@dataclass(frozen=True)
class Paired:
    """Rows r of both sides come from one place [rows, …]."""

    x: Tensor
    """[rows, d of a], float32."""
    y: Tensor
    a: tuple[Tensor, Tensor]
    """Values and indices of a's latents [rows, k]."""
    b: tuple[Tensor, Tensor]
    documents: Tensor
    """Number of the run of rows of one document, counting up [rows]."""
    tokens: Tensor | None
    """Token ids [rows], of spans of text a number for their tokens; None for places of images."""

    def __len__(self) -> int:
        return len(self.documents)

    @cached_property
    def cuts(self) -> list[slice]:
        """Blocks of whole documents of about as many rows: 20, or fewer for few documents."""
        return document_blocks(self.documents)


def check_alike(first: OpenedMember, second: OpenedMember) -> None:
    """Raise `ConfigError` where rows of two members are not from the same places."""
    a, b = first.corpus.identity, second.corpus.identity
    if a.get("tokenizer") != b.get("tokenizer"):
        raise ConfigError(
            f"{first.config.url} and {second.config.url} read text by different tokenizers, "
            f"{a.get('tokenizer')} and {b.get('tokenizer')}. Rows are compared token by token, "
            "which wants one tokenizer; only universality compares other ones, by spans of text."
        )
    if a != b:
        raise ConfigError(
            f"{first.config.url} and {second.config.url} read different items. One corpus for both "
            "is wanted: harvest the second again with data.run of the first."
        )
    if first.rows.per_item != second.rows.per_item:
        raise ConfigError(
            f"{first.rows.name} gives {first.rows.per_item} rows of an item and "
            f"{second.rows.name} {second.rows.per_item}. As many are wanted: name hook points of "
            "equal maps by the hook of each of family.members."
        )


def read_pair(first: Side, second: Side, split: str, tokens: int) -> Paired:
    """All rows that count among the first of a split, about so many."""
    x, y, documents, ids = [], [], [], []
    for items in _items(first.opened, split, tokens):
        keep, document, token = _places(first.opened, items)
        x.append(rows_of(first.opened, items)[keep])
        y.append(x[-1] if second.opened is first.opened else rows_of(second.opened, items)[keep])
        documents.append(document[keep])
        if token is not None:
            ids.append(token[keep])
    all_x, all_y = torch.cat(x), torch.cat(y)
    return Paired(
        x=all_x,
        y=all_y,
        a=latents_of(first.dictionary, all_x),
        b=latents_of(second.dictionary, all_y),
        documents=counted_up(torch.cat(documents)),
        tokens=torch.cat(ids) if ids else None,
    )


def shuffled(paired: Paired, kind: str, *, seed: int) -> Paired | None:
    """The same with b's rows, or documents, in another order; None where there is one document."""
    if kind == ROWS:
        order = permute_rows(len(paired), seed=seed)
    elif int(paired.documents[-1]) == 0:
        return None
    else:
        order = permute_documents(paired.documents, seed=seed)
    return replace(paired, y=paired.y[order], b=(paired.b[0][order], paired.b[1][order]))


def counted_up(documents: Tensor) -> Tensor:
    """Numbers of documents, rows of one together, as numbers from 0 on [rows]."""
    return torch.cat([documents[:1] * 0, (documents[1:] != documents[:-1]).long().cumsum(0)])


def document_blocks(documents: Tensor, most: int = 20) -> list[slice]:
    """Cut rows at ends of documents into at most so many blocks of about equal size."""
    ends = np.flatnonzero(np.diff(documents.numpy())) + 1
    cuts: list[int] = []
    if len(ends):
        wanted = len(documents) * np.arange(1, most) / most
        places = np.searchsorted(ends, wanted).clip(max=len(ends) - 1)
        cuts = np.unique(ends[places]).tolist()
    return [slice(start, stop) for start, stop in pairwise([0, *cuts, len(documents)])]


def _items(opened: OpenedMember, split: str, tokens: int) -> Iterator[tuple[int, int]]:
    there = opened.corpus.split_range(split)
    stop = min(there.stop, there.start + max(tokens // opened.rows.per_item, 1))
    for start in range(there.start, stop, ITEMS):
        yield start, min(start + ITEMS, stop)


def _places(opened: OpenedMember, items: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Which rows of some items count, their documents, and their tokens [rows]."""
    corpus, per_item = opened.corpus, opened.rows.per_item
    keep = torch.from_numpy(kept(row_masks(corpus.masks(*items), per_item)))
    documents = torch.from_numpy(corpus.documents(*items).astype(np.int64))
    if corpus.has_images or documents.shape[1] != per_item:
        return keep, documents[:, 0].repeat_interleave(per_item), None
    return keep, documents.flatten(), corpus.tokens(*items).flatten()


def rows_of(opened: OpenedMember, items: tuple[int, int]) -> Tensor:
    """All rows of some items [rows, d], in float32."""
    return opened.rows.items(*items).float().flatten(0, 1)


@torch.no_grad()
def latents_of(dictionary: AnyDictionary, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Values and indices of the latents of some rows [rows, k]."""
    parts = [dictionary.encode(block) for block in rows.split(_BLOCK)]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])
