"""Chunks of rows by number, over units, segments and runs, with the rows that pass a filter.

What is kept per chunk is one count: 10¹² rows in chunks of 512 take 8 GB. Everything else follows
from the unit that holds a chunk, and filters are applied when a chunk is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import StoreError
from bathyscope.stores.moments import kept_by_chunk
from bathyscope.stores.rows import SegmentReader
from bathyscope.values import Unit

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint32]

RowFilter = Callable[[Unit], Bools]
"""Which rows of a unit count [valid]. It is asked again and again, so it should remember."""
PatternFilter = Callable[[npt.NDArray[np.uint8]], Bools]
"""Which mask bits count."""

MASK_CLASSES = "mask_classes"
"""The figure of a receipt that holds `classes_by_chunk`."""

_THREADS = 4


@dataclass(frozen=True)
class Chunk:
    """A range of rows of one unit."""

    part: Part
    unit: Unit
    start: int
    stop: int

    @property
    def keep(self) -> Bools:
        """Which of its rows count [stop - start]."""
        return self.part.keep(self.unit)[self.start : self.stop]

    def items_and_positions(self) -> Ints:
        """Item and position of the rows that count [rows, 2]."""
        rows = self.start + np.flatnonzero(self.keep)
        items, positions = np.divmod(rows, self.part.per_item)
        return np.stack([self.unit.start + items, positions], axis=1)


class Part:
    """The chunks of one split of one segment. `names` are arrays that are read side by side.

    `patterns` is the filter as a function of mask bits, where there is one: rows are then counted
    from receipts, and masks are read only with the chunks. `units` leaves out all others.
    """

    def __init__(
        self,
        reader: SegmentReader,
        names: Sequence[str],
        *,
        split: str,
        keep: RowFilter | None = None,
        patterns: PatternFilter | None = None,
        units: range | None = None,
    ) -> None:
        self.reader = reader
        self.names = tuple(names)
        self.keep = keep or self._everything
        self._patterns = patterns
        self.chunk_rows = max(reader.segment.array(name).chunk_rows for name in names)
        self.per_item = self._one_p()
        members = reader.segment.plan.indices(split)
        done = np.asarray(reader.units.indices)
        self.units = done[(done >= members.start) & (done < members.stop)]
        if units is not None:
            self.units = self.units[(self.units >= units.start) & (self.units < units.stop)]
        valid = reader.receipts.counts.valid[np.isin(reader.receipts.units, self.units)]
        valid = reader.segment.valid_rows(self.names[0], valid)
        self._valid = valid
        self.first = np.concatenate([[0], np.cumsum(-(-valid // self.chunk_rows))])

    def __len__(self) -> int:
        return int(self.first[-1])

    def chunk(self, number: int) -> Chunk:
        """The chunk of that number."""
        place = int(np.searchsorted(self.first, number, side="right")) - 1
        start = (number - int(self.first[place])) * self.chunk_rows
        stop = min(start + self.chunk_rows, int(self._valid[place]))
        unit = self.reader.segment.plan.unit(int(self.units[place]))
        return Chunk(self, unit, start, stop)

    def sizes(self) -> Counts:
        """Rows of each chunk that count [chunks]."""
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(self._unit_sizes, range(len(self.units))))
        return np.concatenate([np.empty(0, dtype=np.uint32), *found])

    def read(self, chunk: Chunk, out: Tensor) -> None:
        """Fill `out` [rows that count, Σ d] with the arrays of a chunk, side by side."""
        keep = chunk.keep
        chosen = None if keep.all() else torch.from_numpy(np.flatnonzero(keep))
        column = 0
        for name in self.names:
            width = self.width(name)
            if chosen is None and width == out.shape[1]:
                self.reader.read_into(name, chunk.unit, chunk.start, out)
                return
            rows = self.reader.read_tensor(name, chunk.unit, start=chunk.start, stop=chunk.stop)
            rows = rows if chosen is None else rows[chosen]
            out[:, column : column + width] = rows
            column += width

    def width(self, name: str) -> int:
        """d of one array."""
        return int(self.reader.segment.array(name).row_shape[-1])

    @property
    def dtype(self) -> torch.dtype:
        """The logical dtype of the arrays. Raises `StoreError` when they differ."""
        found = {self.reader.segment.array(name).logical_dtype for name in self.names}
        if len(found) > 1:
            raise StoreError(f"{', '.join(self.names)} have dtypes {sorted(found)}, not one.")
        dtype: torch.dtype = getattr(torch, found.pop())
        return dtype

    def _unit_sizes(self, place: int) -> Counts:
        unit, segment = int(self.units[place]), self.reader.segment
        if self._patterns is not None:
            for classes in self.reader.receipts[unit].figures.get(MASK_CLASSES, ()):
                key = classes["chunk_rows"], classes.get("rows_per_item", segment.rows_per_item)
                if key == (self.chunk_rows, self.per_item):
                    return kept_by_chunk(classes, self._patterns)
        keep = self.keep(segment.plan.unit(unit))
        assert len(keep) == self._valid[place], (self.units[place], len(keep))
        starts = np.arange(0, len(keep), self.chunk_rows)
        return np.add.reduceat(keep, starts, dtype=np.uint32)

    def _everything(self, unit: Unit) -> Bools:
        return np.ones(self.reader.valid(self.names[0], unit), dtype=bool)

    def _one_p(self) -> int:
        """P of the arrays. Raises `StoreError` when they differ: their rows are no pairs."""
        found = {name: self.reader.segment.per_item(name) for name in self.names}
        if len(set(found.values())) > 1:
            raise StoreError(
                f"Rows of {', '.join(found)} cannot be read side by side: items have "
                f"{', '.join(map(str, found.values()))} of them. Choose hook points with equally "
                "many rows per item."
            )
        return next(iter(found.values()))


class Chunks:
    """The chunks of several parts, numbered one after the other."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(part for part in parts if len(part))
        self._first = np.cumsum([0, *map(len, self.parts)])
        self.sizes: Counts = np.concatenate(
            [np.empty(0, dtype=np.uint32), *(part.sizes() for part in self.parts)]
        )
        self._check_alike()

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, number: int) -> Chunk:
        place = int(np.searchsorted(self._first, number, side="right")) - 1
        return self.parts[place].chunk(number - int(self._first[place]))

    @property
    def name(self) -> str:
        """The arrays, for messages."""
        return " + ".join(self.parts[0].names) if self.parts else "nothing"

    @property
    def width(self) -> int:
        """Σ d of the arrays."""
        return sum(map(self.parts[0].width, self.parts[0].names))

    @property
    def dtype(self) -> torch.dtype:
        """The logical dtype."""
        return self.parts[0].dtype

    def read(self, numbers: Ints) -> Tensor:
        """The rows of chunks that count [rows, Σ d], one after the other."""
        rows = torch.empty(int(self.sizes[numbers].sum()), self.width, dtype=self.dtype)
        done = 0
        for number in numbers.tolist():
            chunk, count = self[number], int(self.sizes[number])
            if count:
                chunk.part.read(chunk, rows[done : done + count])
            done += count
        return rows

    def items_and_positions(self, numbers: Ints) -> Ints:
        """Part, item and position of these rows [rows, 3]."""
        found = [np.empty((0, 3), dtype=np.int64)]
        for number in numbers.tolist():
            chunk = self[number]
            pairs = chunk.items_and_positions()
            part = np.full((len(pairs), 1), self.parts.index(chunk.part))
            found.append(np.concatenate([part, pairs], axis=1))
        return np.concatenate(found)

    def _check_alike(self) -> None:
        kinds = {
            (tuple(map(part.width, part.names)), part.dtype): part.reader.objects.location
            for part in self.parts
        }
        if len(kinds) > 1:
            listed = "; ".join(f"{where}: {what}" for what, where in kinds.items())
            raise StoreError(
                f"Rows of different shapes cannot be read as one: {listed}. Choose hook points of "
                "one width, or train on one run."
            )
