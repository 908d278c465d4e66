"""The latents of a run: the active ones of every row, as lists of one width or as long as they are.

Top-k latents are arrays `values` and `indices` [rows, k]. Those of other kinds are kept as CSR per
unit: `counts` [rows], and `values` and `indices` of all rows one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bathyscope.errors import MissingArtifact
from bathyscope.runs.activations import Rows
from bathyscope.runs.corpus import Corpus
from bathyscope.stores.manifests import Manifest
from bathyscope.stores.objects import Objects
from bathyscope.values import Json, Unit

COUNTS, VALUES, INDICES = "counts", "values", "indices"

Array = npt.NDArray[Any]


class Latents:
    """The active latents of every row that was encoded."""

    def __init__(self, objects: Objects, manifest: Manifest, corpus: Corpus) -> None:
        self.identity: Json = manifest.identity
        self.facts: Json = manifest.facts
        self.corpus = corpus
        names = [array.name for array in manifest.segments[0].arrays]
        self.is_ragged = COUNTS in names
        arrays = {name: Rows(objects, manifest, name, corpus) for name in names}
        self._rows = arrays[COUNTS if self.is_ragged else VALUES]
        for rows in arrays.values():
            # The arrays are parts of the same segments: one check of the listing is enough.
            rows.__dict__["readers"] = self._rows.readers
        self._arrays = arrays

    @property
    def per_item(self) -> int:
        """P, rows of an item."""
        return self._rows.per_item

    def units(self) -> Iterator[Unit]:
        """Every unit that is done."""
        for _, unit in self._rows.units():
            yield unit

    def masks(self, unit: Unit) -> npt.NDArray[np.uint8]:
        """Mask bits of the rows of a unit [valid]."""
        return self._rows.masks(unit)

    def items(self, start: int, stop: int) -> tuple[Array, Array]:
        """Values float32 and indices int64 [items * P, width] of the rows of items start..stop.

        Slots that are not used have value 0 and index 0. Raises `MissingArtifact` for items that
        are not encoded.
        """
        parts = []
        for unit in self.units():
            low, high = max(start, unit.start), min(stop, unit.stop)
            if low < high:
                first = (low - unit.start) * self.per_item
                rows = self.of_unit(unit).rows(first, first + (high - low) * self.per_item)
                parts.append(rows)
        if sum(len(values) for values, _ in parts) != (stop - start) * self.per_item:
            raise MissingArtifact(f"Items {start}..{stop} are not all encoded. Run encode.")
        width = max(values.shape[1] for values, _ in parts)
        return (
            np.concatenate([_widened(values, width) for values, _ in parts]),
            np.concatenate([_widened(indices, width) for _, indices in parts]),
        )

    def of_unit(self, unit: Unit) -> UnitLatents:
        """The latents of a unit of the first segment."""
        reader = self._rows.readers[0]

        def read(name: str, stop: int | None = None) -> Array:
            rows = reader.read_tensor(name, unit, stop=stop)
            return rows.float().numpy() if name == VALUES else rows.numpy()

        if not self.is_ragged:
            return UnitLatents(read(VALUES), read(INDICES), None)
        offsets = np.concatenate([[0], np.cumsum(read(COUNTS), dtype=np.int64)])
        nnz = int(offsets[-1])
        return UnitLatents(read(VALUES, nnz), read(INDICES, nnz), offsets)


class UnitLatents:
    """The active latents of the rows of one unit."""

    def __init__(self, values: Array, indices: Array, offsets: Array | None) -> None:
        self._values, self._indices, self._offsets = values, indices, offsets

    @property
    def num_rows(self) -> int:
        """Rows of the unit."""
        return len(self._values) if self._offsets is None else len(self._offsets) - 1

    def rows(self, start: int, stop: int) -> tuple[Array, Array]:
        """Values float32 and indices int64 [rows, width] of rows start..stop.

        The width is k, or that of the fullest of these rows; slots that are not used have value 0
        and index 0.
        """
        if self._offsets is None:
            return self._values[start:stop], self._indices[start:stop].astype(np.int64)
        offsets = self._offsets[start : stop + 1]
        counts = np.diff(offsets)
        width = max(int(counts.max(initial=0)), 1)
        used = np.arange(width) < counts[:, None]
        values = np.zeros(used.shape, dtype=np.float32)
        indices = np.zeros(used.shape, dtype=np.int64)
        values[used] = self._values[offsets[0] : offsets[-1]]
        indices[used] = self._indices[offsets[0] : offsets[-1]]
        return values, indices


def _widened(lists: Array, width: int) -> Array:
    return np.pad(lists, ((0, 0), (0, width - lists.shape[1])))
