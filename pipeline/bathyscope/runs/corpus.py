"""A corpus, read from `corpus.zarr`: token sequences or images, with documents and masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.runs.tables import from_parquet
from bathyscope.stores.manifests import COMPLETE, Manifest
from bathyscope.stores.objects import Objects
from bathyscope.stores.rows import SegmentReader
from bathyscope.values import Json

TOKENS, DOCUMENT, OFFSET, MASK, IMAGES = "tokens", "document", "offset", "mask", "images"


@dataclass(frozen=True)
class SplitRange:
    """Items of one split: item numbers count over the whole corpus."""

    split: str
    start: int
    stop: int


class Corpus:
    """Sequences of one length, or images of one size, numbered as items; a segment per split."""

    def __init__(
        self,
        objects: Objects,
        manifest: Manifest,
        *,
        identity: Json | None = None,
        most_items: Mapping[str, int] | None = None,
    ) -> None:
        self.objects = objects
        self.identity = manifest.identity if identity is None else identity
        self.facts: Json = manifest.facts
        self._segments = manifest.segments
        self._most_items = most_items or {}

    def first(self, most_items: Mapping[str, int], identity: Json) -> Corpus:
        """The first items of each split, at most so many, under the same numbers."""
        manifest = Manifest(COMPLETE, self.identity, self._segments, self.facts)
        return Corpus(self.objects, manifest, identity=identity, most_items=most_items)

    @property
    def sequence_length(self) -> int:
        """P, tokens per item; 1 for images."""
        return int(self.facts["sequence_length"])

    @property
    def has_images(self) -> bool:
        """Whether items are images."""
        return bool(self.facts.get("items") == IMAGES)

    @cached_property
    def ranges(self) -> tuple[SplitRange, ...]:
        """Where each split's items lie."""
        return tuple(
            SplitRange(split, start, min(stop, start + self._most_items.get(split, stop - start)))
            for segment in self._segments
            for split, start, stop in segment.plan.ranges
        )

    @property
    def num_items(self) -> int:
        """Items of all splits."""
        return sum(r.stop - r.start for r in self.ranges)

    def split_range(self, split: str) -> SplitRange:
        """The items of a split."""
        return next(r for r in self.ranges if r.split == split)

    def tokens(self, start: int, stop: int) -> Tensor:
        """Token ids [items, P], int64."""
        return torch.from_numpy(self._read(TOKENS, start, stop).astype(np.int64))

    def images(self, start: int, stop: int) -> Tensor:
        """Pixels [items, height, width, 3], uint8."""
        return torch.from_numpy(self._read(IMAGES, start, stop))

    def masks(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Mask bits [items, P]: see `bathyscope.corpora.masks`."""
        return self._read(MASK, start, stop)

    def documents(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Document number of every token [items, P]."""
        return self._read(DOCUMENT, start, stop)

    def offsets(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Place of every token in its document [items, P], in tokens."""
        return self._read(OFFSET, start, stop)

    @cached_property
    def document_names(self) -> list[str]:
        """Name of each document, by its number."""
        names: list[str] = self._documents.column("name").to_pylist()
        return names

    @cached_property
    def document_digests(self) -> list[str]:
        """Digest of each document's text, by its number."""
        digests: list[str] = self._documents.column("digest").to_pylist()
        return digests

    @cached_property
    def document_lengths(self) -> list[int]:
        """Tokens of each document, without its separator, by its number; all may not be here."""
        lengths: list[int] = self._documents.column("num_tokens").to_pylist()
        return lengths

    @cached_property
    def _documents(self) -> Any:
        return from_parquet(self.objects.get(self.facts["documents_key"]))

    @cached_property
    def _readers(self) -> list[SegmentReader]:
        return [SegmentReader(self.objects, segment) for segment in self._segments]

    def _read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        parts = [
            reader.items(name, unit, start=max(start, unit.start), stop=min(stop, unit.stop))[:, 0]
            for reader, unit in self._overlapping(start, stop)
        ]
        if sum(len(p) for p in parts) != stop - start:
            raise IndexError(f"items {start}..{stop} of a corpus of {self.num_items}")
        return np.concatenate(parts)

    def _overlapping(self, start: int, stop: int) -> Iterator[tuple[SegmentReader, Any]]:
        for reader in self._readers:
            for unit in reader.segment.plan.overlapping(start, stop):
                if unit.index in reader.receipts:
                    yield reader, unit
