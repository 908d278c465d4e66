"""Reads rows of a segment by unit. Only units with a receipt exist; sizes are checked first.

A chunk that is missing reads as zeros in Zarr, so every shard that a receipt names is looked up
in the listing, with its size, before the first row is read, and again where a read gives zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import StoreError
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.shards import open_array
from bathyscope.values import Receipt, Unit, Units


class SegmentReader:
    """One segment, open for reading. Raises `StoreError` when a shard is missing or too short."""

    def __init__(self, objects: Objects, segment: Segment) -> None:
        self.objects = objects
        self.segment = segment
        self.receipts: Mapping[int, Receipt] = Receipts(objects, segment.name).all()
        self.units = Units(segment.plan, list(self.receipts))
        self._arrays: dict[str, Any] = {}
        self._check_sizes()

    def read(
        self, name: str, unit: Unit, *, start: int = 0, stop: int | None = None
    ) -> npt.NDArray[Any]:
        """Rows start..stop of a unit as they lie on disk, without padding."""
        valid = self.receipts[unit.index].valid
        stop = valid if stop is None else min(stop, valid)
        assert start >= 0, (name, unit, start)
        first = unit.index * self.segment.rows_per_unit
        try:
            rows = np.asarray(self._array(name)[first + start : first + stop])
        except ValueError as error:
            raise StoreError(
                f"Rows {start} to {stop} of unit {unit.index} of {name} in "
                f"{self.objects.location} cannot be read: {error}. A shard is damaged. "
                f"{self._redo(unit.index)}"
            ) from error
        self._refuse_holes(name, unit, first + start, rows)
        return rows

    def read_tensor(
        self, name: str, unit: Unit, *, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Rows start..stop of a unit in their logical dtype."""
        return as_logical(
            self.read(name, unit, start=start, stop=stop), self.segment.array(name).logical_dtype
        )

    def items(self, name: str, unit: Unit, *, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows of items start..stop (by their number in the corpus), [items, P, …]."""
        per_item = self.segment.rows_per_item
        assert unit.start <= start <= stop <= unit.stop, (unit, start, stop)
        begin, end = (start - unit.start) * per_item, (stop - unit.start) * per_item
        rows = self.read(name, unit, start=begin, stop=end)
        return rows.reshape(stop - start, per_item, *rows.shape[1:])

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self.segment.array(name)
            self._arrays[name] = open_array(self.objects, self.segment.name, name)
        return self._arrays[name]

    def _check_sizes(self) -> None:
        sizes: dict[str, int] = {}
        for spec in self.segment.arrays:
            sizes.update(self.objects.walk(f"{spec.name}/{self.segment.name}"))
        for receipt in self.receipts.values():
            for shard in receipt.shards:
                found = sizes.get(shard.key)
                if found != shard.size_bytes:
                    raise StoreError(
                        f"Shard {shard.key} of {self.objects.location} has "
                        f"{'no object' if found is None else f'{found} bytes'}; its receipt says "
                        f"{shard.size_bytes}. {self._redo(receipt.unit)}"
                    )

    def _refuse_holes(self, name: str, unit: Unit, first: int, rows: npt.NDArray[Any]) -> None:
        # A store that is replaced while it is read loses its shards after they were checked.
        spec = self.segment.array(name)
        last = first + len(rows) - 1
        for shard in range(first // spec.shard_rows, last // spec.shard_rows + 1):
            start = max(shard * spec.shard_rows - first, 0)
            part = rows[start : (shard + 1) * spec.shard_rows - first]
            key = spec.shard_key(self.segment.name, shard)
            # The first row answers for nearly every shard, without a request or a second pass.
            if len(part) and not part[0].any() and not part.any() and not self.objects.exists(key):
                raise StoreError(
                    f"Shard {key} of {self.objects.location} has gone since this reader was "
                    f"opened: the store was replaced. Open the run again. {self._redo(unit.index)}"
                )

    def _redo(self, unit: int) -> str:
        return (
            f"Delete receipt {unit} of segment {self.segment.name} and run the stage again: only "
            "that unit is redone."
        )


def to_disk(rows: Tensor) -> npt.NDArray[Any]:
    """Rows as NumPy can store them: bfloat16 becomes its bits in uint16."""
    if rows.dtype == torch.bfloat16:
        return rows.contiguous().view(torch.uint16).numpy()
    return rows.contiguous().numpy()


def as_logical(rows: npt.NDArray[Any], logical_dtype: str) -> Tensor:
    """Rows from disk in the dtype that their bits mean, without a copy where possible."""
    if not rows.flags.writeable:
        rows = rows.copy()
    if logical_dtype == "bfloat16":
        return torch.from_numpy(rows.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(rows)
