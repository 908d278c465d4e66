"""Activations and latents of a run: rows by unit, by item, and in shuffled batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import MissingArtifact
from bathyscope.runs.corpus import Corpus
from bathyscope.stores.batches import Chunk, ShuffledBatches, list_chunks
from bathyscope.stores.manifests import Manifest
from bathyscope.stores.moments import total
from bathyscope.stores.objects import Objects
from bathyscope.stores.rows import SegmentReader
from bathyscope.stores.stored_receipts import moments_of
from bathyscope.values import Json, Moments, Unit

RowFilter = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.bool_]]


class Rows:
    """One array of a store whose rows follow the items of a corpus.

    Row r of a unit belongs to item `unit.start + r // P`, position `r % P`. Filters act on the
    corpus' masks when reading, never when writing.
    """

    def __init__(self, objects: Objects, manifest: Manifest, name: str, corpus: Corpus) -> None:
        self.objects = objects
        self.identity: Json = manifest.identity
        self.facts: Json = manifest.facts
        self.name = name
        self.corpus = corpus
        self._segments = manifest.segments

    @cached_property
    def readers(self) -> list[SegmentReader]:
        """One reader per segment, checked against its receipts."""
        return [SegmentReader(self.objects, segment) for segment in self._segments]

    @property
    def width(self) -> int:
        """d, the last axis of a row."""
        return self._segments[0].array(self.name).row_shape[-1]

    def units(self) -> Iterator[tuple[SegmentReader, Unit]]:
        """Every unit that is done."""
        for reader in self.readers:
            for unit in reader.units:
                yield reader, unit

    def unit_rows(self, unit: Unit) -> Tensor:
        """All valid rows of a unit of the first segment [valid, d]."""
        return self.readers[0].read_tensor(self.name, unit)

    def items(self, start: int, stop: int) -> Tensor:
        """Rows of items start..stop [items, P, d] in their logical dtype."""
        parts = []
        for reader, unit in self.units():
            low, high = max(start, unit.start), min(stop, unit.stop)
            if low < high:
                per_item = reader.segment.rows_per_item
                rows = reader.read_tensor(
                    self.name,
                    unit,
                    start=(low - unit.start) * per_item,
                    stop=(high - unit.start) * per_item,
                )
                parts.append(rows.view(high - low, per_item, -1))
        if sum(len(p) for p in parts) != stop - start:
            raise MissingArtifact(
                f"Items {start}..{stop} of {self.name} are not all harvested in "
                f"{self.objects.location}. Run the harvest to its end."
            )
        return torch.cat(parts)

    def masks(self, unit: Unit) -> npt.NDArray[np.uint8]:
        """Mask bits of the rows of a unit [valid]."""
        return self.corpus.masks(unit.start, unit.stop).reshape(-1)

    def moments(self, split: str, keep: RowFilter) -> Moments:
        """Sums over the rows of a split that pass the filter, from receipts alone."""
        parts = []
        for reader in self.readers:
            for group in reader.receipts.totals(reader.segment.plan):
                classes = moments_of(group, split, self.name)
                patterns = np.array(sorted(classes), dtype=np.uint8)
                parts += [classes[int(p)] for p in patterns[keep(patterns)]]
        return total(parts, what=f"{self.name}, split {split}")

    def chunks(self, split: str, keep: RowFilter) -> list[Chunk]:
        """Chunks of one split with their row filters."""
        found = []
        for reader in self.readers:
            units = [u for u in reader.units if u.split == split]
            kept = {u.index: keep(self.masks(u)) for u in units}
            found += list_chunks(reader, self.name, split=split, keep=kept)
        return found

    def batches(
        self, split: str, keep: RowFilter, *, batch_rows: int, streams: int, window_chunks: int
    ) -> ShuffledBatches:
        """Shuffled batches of one split: `batch(seed, epoch, step)`."""
        return ShuffledBatches(
            self.chunks(split, keep),
            name=self.name,
            batch_rows=batch_rows,
            streams=streams,
            window_chunks=window_chunks,
        )
