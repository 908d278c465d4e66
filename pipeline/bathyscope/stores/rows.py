"""Reads rows of a segment by unit. Only units with a receipt exist, and only those not retired.

The size of every shard is compared with its receipt when the shard is first opened; `check_sizes`
does so for all of them at once. Every chunk is checked as it is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import StoreError
from bathyscope.stores.codecs import dequantise, is_per_row
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts, redo_command
from bathyscope.stores.retired import retired_units
from bathyscope.stores.shard_reader import ShardReader
from bathyscope.stores.stored_receipts import StoredReceipts
from bathyscope.values import Unit, Units

# Listing takes a second for some hundred thousand objects; a larger store is checked shard by
# shard as it is read.
_CHECKED_AT_ONCE = 20_000


class SegmentReader:
    """One segment, open for reading. A million units take some 30 MB.

    With few shards all sizes are checked at once. Raises `StoreError` when a shard is missing or
    has another size, or when a unit was done that the segment does not have.
    """

    def __init__(self, objects: Objects, segment: Segment) -> None:
        self.objects = objects
        self.segment = segment
        self.receipts = StoredReceipts(Receipts(objects, segment.name))
        check_units(self.receipts.units, objects, segment)
        gone = retired_units(objects, segment.name)
        self.units = Units(segment.plan, np.setdiff1d(self.receipts.units, gone))
        self._arrays: dict[str, ShardReader] = {}
        if self.num_shards <= _CHECKED_AT_ONCE:
            self.check_sizes()

    @property
    def num_shards(self) -> int:
        """Shards of all units that are done."""
        per_unit = sum(self.segment.unit_shards(a.name) for a in self.segment.arrays)
        return per_unit * len(self.units)

    def read(
        self, name: str, unit: Unit, *, start: int = 0, stop: int | None = None
    ) -> npt.NDArray[Any]:
        """Rows start..stop of a unit as they lie on disk, without padding."""
        spec = self.segment.array(name)
        count = self._count(name, unit, start, stop)
        rows = np.empty((count, *spec.row_shape), dtype=spec.dtype)
        self._fill(name, unit, start, rows)
        return rows

    def read_tensor(
        self, name: str, unit: Unit, *, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Rows start..stop of a unit in their logical dtype."""
        spec = self.segment.array(name)
        rows = self.read(name, unit, start=start, stop=stop)
        if not is_per_row(spec.codec):
            return as_logical(rows, spec.logical_dtype)
        scales = self.read(scales_name(name), unit, start=start, stop=stop)
        return dequantise(rows, scales, spec.codec).to(getattr(torch, spec.logical_dtype))

    def read_into(self, name: str, unit: Unit, start: int, out: Tensor) -> None:
        """Fill `out` [n, …], in the logical dtype, with rows start..start + n of a unit.

        Without another copy, unless the codec keeps a scale per row.
        """
        spec = self.segment.array(name)
        assert self._count(name, unit, start, start + len(out)) == len(out), (unit, start, len(out))
        if is_per_row(spec.codec):
            out.copy_(self.read_tensor(name, unit, start=start, stop=start + len(out)))
        else:
            self._fill(name, unit, start, to_disk(out))

    def valid(self, name: str, unit: Unit) -> int:
        """Rows of a unit of an array, without padding."""
        return self.segment.valid_rows(name, self.receipts.valid(unit.index))

    def items(self, name: str, unit: Unit, *, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows of items start..stop (by their number in the corpus), [items, P, …]."""
        per_item = self.segment.per_item(name)
        assert unit.start <= start <= stop <= unit.stop, (unit, start, stop)
        begin, end = (start - unit.start) * per_item, (stop - unit.start) * per_item
        rows = self.read(name, unit, start=begin, stop=end)
        return rows.reshape(stop - start, per_item, *rows.shape[1:])

    def _count(self, name: str, unit: Unit, start: int, stop: int | None) -> int:
        valid = self.valid(name, unit)
        stop = valid if stop is None else min(stop, valid)
        assert start >= 0, (unit, start)
        return max(stop - start, 0)

    def _fill(self, name: str, unit: Unit, start: int, out: npt.NDArray[Any]) -> None:
        first = unit.index * self.segment.unit_rows(name)
        try:
            self._array(name).read_into(first + start, out)
        except StoreError as error:
            raise StoreError(
                f"Rows {start} to {start + len(out)} of unit {unit.index} of {name} in "
                f"{self.objects.location} cannot be read: {error}. {self._redo(unit.index)}"
            ) from error

    def _array(self, name: str) -> ShardReader:
        if name not in self._arrays:
            spec = self.segment.array(name)
            per_unit = self.segment.unit_shards(name)

            def size_of(shard: int) -> int:
                key = spec.shard_key(self.segment.name, shard)
                shards = self.receipts[shard // per_unit].shards
                return next(s.size_bytes for s in shards if s.key == key)

            self._arrays[name] = ShardReader(self.objects, spec, self.segment.name, size_of)
        return self._arrays[name]

    def check_sizes(self) -> None:
        """Look up every shard that a receipt names. Raises `StoreError` that names the first."""
        sizes: dict[str, int] = {}
        for spec in self.segment.arrays:
            sizes.update(self.objects.walk(f"{spec.name}/{self.segment.name}"))
        for unit in self.units.indices:
            receipt = self.receipts[int(unit)]
            for shard in receipt.shards:
                found = sizes.get(shard.key)
                if found != shard.size_bytes and not self._retired_since(receipt.unit):
                    raise StoreError(
                        f"Shard {shard.key} of {self.objects.location} has "
                        f"{'no object' if found is None else f'{found} bytes'}; its receipt says "
                        f"{shard.size_bytes}. {self._redo(receipt.unit)}"
                    )

    def _retired_since(self, unit: int) -> bool:
        return unit in retired_units(self.objects, self.segment.name)

    def _redo(self, unit: int) -> str:
        command = redo_command(self.objects.location, self.segment.name, units=[unit])
        return f"Give `{command}`, then run the stage again: only that unit is redone."


def check_units(units: npt.NDArray[np.int64], objects: Objects, segment: Segment) -> None:
    """Raise `StoreError` when one of the sorted units is none of the segment's."""
    if len(units) and units[-1] >= segment.plan.num_units:
        command = redo_command(objects.location, segment.name, units=[int(units[-1])])
        raise StoreError(
            f"{objects.location} has a receipt of unit {units[-1]} in segment {segment.name}, "
            f"which has {segment.plan.num_units} units. It was copied there, or the manifest is of "
            f"another run. Nothing was changed: give `{command}`, or restore the manifest."
        )


def scales_name(name: str) -> str:
    """The array that holds the scales of an array with a scale per row."""
    return f"{name}.scale"


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
