"""Reads rows of a segment by unit. Only units with a receipt exist; sizes are checked first.

A chunk that is missing reads as zeros in Zarr, so every shard that a receipt names is looked up
in the listing, with its size, before the first row is read.
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
from bathyscope.values import Receipt, Unit


class SegmentReader:
    """One segment, open for reading. Raises `StoreError` when a shard is missing or too short."""

    def __init__(self, objects: Objects, segment: Segment) -> None:
        self.objects = objects
        self.segment = segment
        self.receipts: Mapping[int, Receipt] = Receipts(objects, segment.name).all()
        self.units = [u for u in segment.plan.units() if u.index in self.receipts]
        self._arrays: dict[str, Any] = {}
        self._check_sizes()

    def read(
        self, name: str, unit: Unit, *, start: int = 0, stop: int | None = None
    ) -> npt.NDArray[Any]:
        """Rows start..stop of a unit as they lie on disk, without padding."""
        valid = self.receipts[unit.index].valid
        stop = valid if stop is None else min(stop, valid)
        first = unit.index * self.segment.rows_per_unit
        return np.asarray(self._array(name)[first + start : first + stop])

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
                        f"{shard.size_bytes}. Delete receipt {receipt.unit} of segment "
                        f"{self.segment.name} and run the stage again: only that unit is redone."
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
