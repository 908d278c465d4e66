"""Writes the items of one split of a corpus, a unit as soon as it is full."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bathyscope.config import StoreConfig
from bathyscope.stages.layout import Column, lay_out
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.receipts import Receipts
from bathyscope.stores.units import create_segment, write_unit
from bathyscope.values import Json, Receipt, Unit, UnitPlan

_MOST_ITEMS_PER_UNIT = 32768
# A unit is held in memory until it is full.
_MOST_BYTES_PER_UNIT = 128 * 2**20


def closed(writers: Mapping[str, ItemWriter]) -> tuple[list[Json], int]:
    """Close the writer of every split: records of their segments, and the number of all items.

    Items are numbered over the whole corpus, one split after the other.
    """
    segments, first = [], 0
    for split, writer in writers.items():
        segments.append(writer.close(split, first).to_dict())
        first += writer.num_items
    return segments, first


class ItemWriter:
    """One split of a corpus. `columns` are its arrays; an item has one row of each."""

    def __init__(
        self,
        objects: Objects,
        name: str,
        columns: Sequence[Column],
        *,
        expected_items: int,
        store: StoreConfig,
        check: Callable[[], None],
    ) -> None:
        self._objects = objects
        self._check = check
        self._store = store
        self._columns = list(columns)
        self._waiting: list[Mapping[str, npt.NDArray[Any]]] = []
        item_bytes = sum(int(np.dtype(c.dtype).itemsize * np.prod(c.row_shape)) for c in columns)
        most = min(_MOST_ITEMS_PER_UNIT, max(_MOST_BYTES_PER_UNIT // item_bytes, 1))
        self._segment = self._laid_out(name, min(max(expected_items, 1), most))
        self.num_items = 0

    def add(self, item: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take one item: array -> its row."""
        self._waiting.append(item)
        if len(self._waiting) == self._segment.plan.items_per_unit:
            self._flush()

    @property
    def num_taken(self) -> int:
        """Items that were taken, written or not."""
        return self.num_items + len(self._waiting)

    def close(self, split: str, first_item: int) -> Segment:
        """Write what is left and the arrays' metadata; return the finished segment."""
        if self._waiting and not self.num_items:
            # There is one unit only, and it need not have room for more than was expected.
            self._segment = self._laid_out(self._segment.name, len(self._waiting))
        if self._waiting:
            self._flush()
        segment = self._segment
        stop = first_item + self.num_items
        plan = UnitPlan(((split, first_item, stop),), segment.plan.items_per_unit)
        finished = Segment(segment.name, plan, 1, segment.arrays, segment.rows_per_unit)
        create_segment(self._objects, finished)
        return finished

    def _laid_out(self, name: str, items_per_unit: int) -> Segment:
        arrays, rows = lay_out(self._columns, unit_rows=items_per_unit, store=self._store)
        # The number of items is known at the end; shard keys do not depend on it.
        return Segment(name, UnitPlan((), items_per_unit), 1, arrays, rows)

    def _flush(self) -> None:
        names = [spec.name for spec in self._segment.arrays]
        rows = {name: np.stack([item[name] for item in self._waiting]) for name in names}
        count = len(self._waiting)
        number = self.num_items // self._segment.plan.items_per_unit
        unit = Unit(number, self.num_items, self.num_items + count)
        shards = write_unit(
            self._objects,
            self._segment,
            unit=unit,
            rows=rows,
            check=self._check,
            fsync=self._store.fsync,
        )
        receipt = Receipt(unit=unit.index, term=0, valid=count, shards=shards)
        Receipts(self._objects, self._segment.name).create(receipt)
        self.num_items += count
        self._waiting = []
