"""Activations and latents of a run: rows by unit, by item, and in shuffled batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import MissingArtifact
from bathyscope.runs.corpus import Corpus
from bathyscope.stores.batches import ShuffledBatches
from bathyscope.stores.chunks import Chunks, Part
from bathyscope.stores.manifests import Manifest, Segment
from bathyscope.stores.mixture import MixedBatches, split_batch
from bathyscope.stores.moments import total
from bathyscope.stores.objects import Objects
from bathyscope.stores.rows import SegmentReader
from bathyscope.stores.stored_receipts import moments_of
from bathyscope.values import Json, Moments, Unit

Ints = npt.NDArray[np.int64]
RowFilter = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.bool_]]

_UNITS_REMEMBERED = 256


def row_masks(masks: npt.NDArray[np.uint8], per_item: int) -> npt.NDArray[np.uint8]:
    """Mask bits of rows [items * P], from those of a corpus' positions [items, positions].

    Rows are positions where there are equally many. Rows of an item with one position, an image,
    have its bits. Any other rows, such as one of a whole sequence, have none.
    """
    items, positions = masks.shape
    if positions == per_item:
        return masks.reshape(-1)
    if positions == 1:
        return np.repeat(masks.reshape(-1), per_item)
    return np.zeros(items * per_item, dtype=np.uint8)


class Rows:
    """One array of a store whose rows follow the items of a corpus.

    Row r of a unit belongs to item `unit.start + r // P`, position `r % P`. Filters act on the
    corpus' masks when reading, never when writing.
    """

    def __init__(
        self,
        objects: Objects,
        manifest: Manifest,
        name: str,
        corpus: Corpus,
        units: range | None = None,
    ) -> None:
        self.objects = objects
        self.identity: Json = manifest.identity
        self.facts: Json = manifest.facts
        self.name = name
        self.corpus = corpus
        self._manifest = manifest
        self._segments = manifest.segments
        self._units = units

    def only(self, units: range) -> Rows:
        """The rows of some units of the first segment, as they lie there at this moment."""
        return Rows(self.objects, self._manifest, self.name, self.corpus, units)

    @property
    def segment(self) -> Segment:
        """The first segment."""
        return self._segments[0]

    @cached_property
    def readers(self) -> list[SegmentReader]:
        """One reader per segment, checked against its receipts."""
        return [SegmentReader(self.objects, segment) for segment in self._segments]

    @property
    def width(self) -> int:
        """d, the last axis of a row."""
        return self._segments[0].array(self.name).row_shape[-1]

    @property
    def per_item(self) -> int:
        """P, rows of an item."""
        return self._segments[0].per_item(self.name)

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
        for reader, unit in self._overlapping(start, stop):
            low, high = max(start, unit.start), min(stop, unit.stop)
            per_item = self.per_item
            begin, end = (low - unit.start) * per_item, (high - unit.start) * per_item
            rows = reader.read_tensor(self.name, unit, start=begin, stop=end)
            parts.append(rows.view(high - low, per_item, -1))
        if sum(len(p) for p in parts) != stop - start:
            raise self._not_all(f"Items {start}..{stop}")
        return torch.cat(parts)

    def at(self, items: Ints, positions: Ints) -> Tensor:
        """The rows at places anywhere in the store [n, d], in the order asked for.

        Each chunk is read once, however many of its rows are wanted. Raises `MissingArtifact`
        for an item that is not harvested, `IndexError` for a position outside the items.
        """
        items, positions = np.asarray(items), np.asarray(positions)
        spec, per_item = self._segments[0].array(self.name), self.per_item
        outside = (positions < 0) | (positions >= per_item)
        if outside.any():
            raise IndexError(f"position {positions[outside][0]} of items of {per_item}")
        out = torch.empty(len(items), self.width, dtype=getattr(torch, spec.logical_dtype))
        order = np.lexsort((positions, items))
        for reader, unit, chosen in self._by_unit(items, order):
            rows = (items[chosen] - unit.start) * per_item + positions[chosen]
            chunks = rows // reader.segment.array(self.name).chunk_rows
            for group in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(chunks)) + 1):
                low, high = int(rows[group[0]]), int(rows[group[-1]]) + 1
                found = reader.read_tensor(self.name, unit, start=low, stop=high)
                out[torch.from_numpy(chosen[group])] = found[torch.from_numpy(rows[group] - low)]
        return out

    def neighbourhood(self, item: int, position: int, *, before: int, after: int) -> Tensor:
        """Rows of one item around a position [n, d]; n is smaller at the ends of the item."""
        places = np.arange(max(position - before, 0), min(position + after + 1, self.per_item))
        return self.at(np.full(len(places), item), places)

    def masks(self, unit: Unit) -> npt.NDArray[np.uint8]:
        """Mask bits of the rows of a unit [valid]."""
        return row_masks(self.corpus.masks(unit.start, unit.stop), self.per_item)

    def moments(self, split: str, keep: RowFilter) -> Moments:
        """Sums over the rows of a split that pass the filter, from receipts alone."""
        parts = []
        if self._units is not None:
            for unit in self._units:
                found = self.readers[0].receipts[unit].moments[self.name]
                patterns = np.array(sorted(found), dtype=np.uint8)
                parts += [found[int(p)] for p in patterns[keep(patterns)]]
            return total(parts, what=f"{self.name}, units {self._units}")
        for reader in self.readers:
            for group in reader.receipts.totals(reader.segment.plan):
                classes = moments_of(group, split, self.name)
                patterns = np.array(sorted(classes), dtype=np.uint8)
                parts += [classes[int(p)] for p in patterns[keep(patterns)]]
        return total(parts, what=f"{self.name}, split {split}")

    def parts(self, split: str, keep: RowFilter, *, beside: Sequence[Rows] = ()) -> list[Part]:
        """The chunks of one split, with hook points of the same run read side by side."""
        # Chunks are read in any order: the filter of a unit is asked for again and again.
        remembered = lru_cache(_UNITS_REMEMBERED)(lambda unit: keep(self.masks(unit)))
        names = (self.name, *(rows.name for rows in beside))
        return [
            Part(reader, names, split=split, keep=remembered, patterns=keep, units=self._units)
            for reader in self.readers
        ]

    def batches(
        self,
        split: str,
        keep: RowFilter,
        *,
        batch_rows: int,
        streams: int,
        window_chunks: int,
        memory_bytes: int = 0,
        beside: Sequence[Rows] = (),
        rank: int = 0,
        world: int = 1,
        aside_rows: int = 0,
    ) -> ShuffledBatches:
        """Shuffled batches of one split: `batch(seed, epoch, step)`.

        `beside` are other hook points of this run; their columns follow, in order. `aside_rows`
        are in no batch.
        """
        return ShuffledBatches(
            Chunks(self.parts(split, keep, beside=beside)),
            batch_rows=batch_rows,
            streams=streams,
            window_chunks=window_chunks,
            memory_bytes=memory_bytes,
            rank=rank,
            world=world,
            aside_rows=aside_rows,
        )

    def _overlapping(self, start: int, stop: int) -> Iterator[tuple[SegmentReader, Unit]]:
        for reader in self.readers:
            for unit in reader.segment.plan.overlapping(start, stop):
                if unit.index in reader.receipts:
                    yield reader, unit

    def _by_unit(self, items: Ints, order: Ints) -> Iterator[tuple[SegmentReader, Unit, Ints]]:
        """The unit of each item, with the places in `order` that it holds."""
        sorted_items = items[order]
        done = 0
        while done < len(order):
            item = int(sorted_items[done])
            found = next(self._overlapping(item, item + 1), None)
            if found is None:
                raise self._not_all(f"Item {item}")
            stop = int(np.searchsorted(sorted_items, found[1].stop))
            yield *found, order[done:stop]
            done = stop

    def _not_all(self, what: str) -> MissingArtifact:
        return MissingArtifact(
            f"{what} of {self.name} are not all harvested in {self.objects.location}. Run the "
            "harvest to its end."
        )


def mixed(
    sources: Sequence[Rows],
    weights: Sequence[float],
    split: str,
    keep: RowFilter,
    *,
    batch_rows: int,
    world: int = 1,
    **settings: Any,
) -> MixedBatches:
    """Batches of several runs, or hook points of one width, mixed by weight.

    `settings` are those of `Rows.batches`. Raises `ConfigError` for weights that are no shares.
    """
    assert len(sources) == len(weights), (len(sources), len(weights))
    # Divisible by the usual numbers of streams, where the batch is.
    multiple = math.gcd(batch_rows, 64 * world)
    rows = split_batch(batch_rows, weights, multiple=multiple)
    return MixedBatches(
        [
            source.batches(split, keep, batch_rows=part, world=world, **settings)
            for source, part in zip(sources, rows, strict=True)
        ]
    )
