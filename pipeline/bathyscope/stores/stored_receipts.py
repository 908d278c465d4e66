"""All receipts of a segment as a mapping that holds few of them at a time.

Which units are done comes from the listing. What readers and stages need of every unit (valid
rows, bytes) is read at once as arrays, from a few columns of each pack. Anything else is read
when it is asked for.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from bathyscope.errors import StoreError
from bathyscope.stores.pack_tables import Totals, add_totals
from bathyscope.stores.packs import GROUP, LaterMoments, Pack
from bathyscope.stores.receipts import THREADS, Receipts, merged, of_group
from bathyscope.values import Moments, Receipt, UnitPlan

_CACHED_PACKS = 4
_CACHED_RECEIPTS = 2048

Ints = npt.NDArray[np.int64]
_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True)
class Counts:
    """What is known of every unit at once."""

    units: Ints
    """Units that are done, sorted [n]."""
    valid: Ints
    """Valid rows [n]."""
    stored_bytes: Ints
    """Bytes of the shards [n]."""


class StoredReceipts(Mapping[int, Receipt]):
    """The receipts of one segment as they were listed when this was made.

    A million packed receipts take some 30 MB. Raises `StoreError` when a receipt is damaged, or
    was voided since.
    """

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts
        self._loose, self._numbers = receipts.listed()
        self.units = merged(self._loose, sorted(self._numbers))
        self._packs: _Cache[Pack] = _Cache(_CACHED_PACKS)
        self._cache: _Cache[Receipt] = _Cache(_CACHED_RECEIPTS)

    def __getitem__(self, unit: int) -> Receipt:
        if unit not in self:
            raise KeyError(unit)
        if unit // GROUP in self._numbers:
            return self._pack(unit // GROUP).receipt(unit)
        return self._cache.get(unit, lambda: self._lean(self._load(unit)))

    def __iter__(self) -> Iterator[int]:
        return map(int, self.units)

    def __len__(self) -> int:
        return len(self.units)

    def __contains__(self, unit: object) -> bool:
        if not isinstance(unit, int | np.integer):
            return False
        place = int(np.searchsorted(self.units, unit))
        return place < len(self.units) and bool(self.units[place] == unit)

    @cached_property
    def counts(self) -> Counts:
        """Valid rows and bytes of all units, several requests at a time."""
        empty = Counts(*(np.empty(0, dtype=np.int64),) * 3)
        with ThreadPoolExecutor(THREADS) as pool:
            parts = list(pool.map(self._group_counts, self._groups())) or [empty]
        valid, stored = ([getattr(p, n) for p in parts] for n in ("valid", "stored_bytes"))
        return Counts(self.units, np.concatenate(valid), np.concatenate(stored))

    def written_by(self, field: str) -> set[str]:
        """The distinct values of a field of the writers, such as `device`."""
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(lambda group: self._group_writers(group, field), self._groups())
            return set().union(*found)

    def valid(self, unit: int) -> int:
        """Valid rows of a unit that is done."""
        assert unit in self, unit
        return int(self.counts.valid[np.searchsorted(self.units, unit)])

    def totals(self, plan: UnitPlan) -> Iterator[Totals]:
        """The sums of each thousand units, in order; within it they are added in order of units.

        So the result to the last bit does not depend on what has been packed.
        """
        for group in self._groups():
            if group in self._numbers:
                yield self._pack(group).totals()
            else:
                totals: Totals = {}
                for receipt in self._load_group(group):
                    add_totals(totals, plan.unit(receipt.unit).split, receipt)
                yield totals

    def _groups(self) -> list[int]:
        return [int(g) for g in np.unique(self.units // GROUP)]

    def _group_counts(self, group: int) -> Counts:
        if group in self._numbers:
            units = np.arange(group * GROUP, (group + 1) * GROUP)
            return Counts(units, *self._open(group).counts())
        receipts = self._load_group(group)
        for receipt in receipts:
            self._cache.get(receipt.unit, partial(self._lean, receipt))
        return Counts(
            np.array([r.unit for r in receipts]),
            np.array([r.valid for r in receipts]),
            np.array([sum(s.size_bytes for s in r.shards) for r in receipts]),
        )

    def _group_writers(self, group: int, field: str) -> set[str]:
        if group in self._numbers:
            return {str(json.loads(w).get(field, "?")) for w in self._open(group).writers()}
        units = of_group(self.units, group).tolist()
        return {str(self[unit].writer.get(field, "?")) for unit in units}

    def _load_group(self, group: int) -> list[Receipt]:
        units = of_group(self._loose, group).tolist()
        found = self._receipts.loose_many(units)
        return [self._load(u) if r is None else r for u, r in zip(units, found, strict=True)]

    def _load(self, unit: int) -> Receipt:
        receipt = self._receipts.get(unit)
        if receipt is None:
            raise StoreError(
                f"The receipt of unit {unit} of segment {self._receipts.segment} in "
                f"{self._receipts.objects.location} was taken back while it was being read. Run "
                "the stage that makes it, then give the same command again."
            )
        return receipt

    def _lean(self, receipt: Receipt) -> Receipt:
        """Without its sums, which are large."""
        later = LaterMoments(lambda: self._load(receipt.unit).moments)
        return dataclasses.replace(receipt, moments=later) if receipt.moments else receipt

    def _pack(self, group: int) -> Pack:
        return self._packs.get(group, lambda: self._open(group))

    def _open(self, group: int) -> Pack:
        return self._receipts.packs.open(group, self._numbers[group])


def moments_of(totals: Totals, split: str, array: str) -> dict[int, Moments]:
    """Mask class -> sums of one split and array."""
    return {c: m for (s, a, c), m in sorted(totals.items(), key=_key) if (s, a) == (split, array)}


def _key(item: Any) -> Any:
    return item[0]


class _Cache(Generic[_Value]):
    """The values used last. Threads may share one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[int, _Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: int, make: Callable[[], _Value]) -> _Value:
        """The value of a key, made when it is not kept; the one unused for longest makes room."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        # Not under the lock: it may take a request. Two threads may both make it.
        made = make()
        with self._lock:
            self._values[key] = made
            if len(self._values) > self._most:
                self._values.popitem(last=False)
        return made
