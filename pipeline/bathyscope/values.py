"""Frozen values that cross floors: units of work, what they leave behind, what identifies them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Json = dict[str, Any]

TRAIN = "train"
HELD_OUT = "held_out"
SPLITS = (TRAIN, HELD_OUT)


@dataclass(frozen=True)
class Unit:
    """A piece of work: a fixed range of items of one split."""

    index: int
    """Place among the units of its segment; decides the shard keys."""
    start: int
    """First item."""
    stop: int
    """One past the last item."""
    split: str = TRAIN
    """`train` or `held_out`; a unit never holds both."""

    @property
    def num_items(self) -> int:
        """Items in the unit; the last unit of a split may hold fewer than the others."""
        return self.stop - self.start


@dataclass(frozen=True)
class UnitPlan:
    """All units of a segment as ranges, so that a million units need no list on disk."""

    ranges: tuple[tuple[str, int, int], ...]
    """(split, first item, one past the last item), in order."""
    items_per_unit: int
    """Items of a full unit."""

    def units(self) -> Units:
        """All units, in order of their index; none is made before it is asked for."""
        return Units(self, range(self.num_units))

    def unit(self, index: int) -> Unit:
        """The unit of that index. Raises `IndexError` outside the plan."""
        place = index
        for split, first, last in self.ranges:
            count = -(-(last - first) // self.items_per_unit)
            if 0 <= place < count:
                start = first + place * self.items_per_unit
                return Unit(index, start, min(start + self.items_per_unit, last), split)
            place -= count
        raise IndexError(f"unit {index} of a plan of {self.num_units} units")

    def indices(self, split: str) -> range:
        """Indices of the units of one split. A plan has at most one range of each split."""
        before = 0
        for name, first, last in self.ranges:
            count = -(-(last - first) // self.items_per_unit)
            if name == split:
                return range(before, before + count)
            before += count
        return range(0)

    def overlapping(self, start: int, stop: int) -> Units:
        """The units that hold any of the items start..stop, in order, found without a search."""
        found = [np.empty(0, dtype=np.int64)]
        before = 0
        for _, first, last in self.ranges:
            low, high = max(start, first), min(stop, last)
            if low < high:
                begin = (low - first) // self.items_per_unit
                end = (high - 1 - first) // self.items_per_unit + 1
                found.append(np.arange(before + begin, before + end))
            before += -(-(last - first) // self.items_per_unit)
        return Units(self, np.concatenate(found))

    @property
    def num_units(self) -> int:
        """Number of units over all ranges."""
        return sum(-(-(last - first) // self.items_per_unit) for _, first, last in self.ranges)

    def to_dict(self) -> Json:
        """A JSON form that `from_dict` reads back."""
        return {"ranges": [list(r) for r in self.ranges], "items_per_unit": self.items_per_unit}

    @classmethod
    def from_dict(cls, data: Json) -> UnitPlan:
        """The plan that `to_dict` wrote."""
        ranges = tuple((str(s), int(a), int(b)) for s, a, b in data["ranges"])
        return cls(ranges, int(data["items_per_unit"]))


class Units(Sequence[Unit]):
    """Units of a plan by their indices: a million of them take 8 MB, and a range takes nothing."""

    def __init__(self, plan: UnitPlan, indices: Sequence[int] | npt.NDArray[np.int64]) -> None:
        self.plan = plan
        self.indices = indices

    @overload
    def __getitem__(self, place: int) -> Unit: ...

    @overload
    def __getitem__(self, place: slice) -> Units: ...

    def __getitem__(self, place: int | slice) -> Unit | Units:
        if isinstance(place, slice):
            return Units(self.plan, self.indices[place])
        return self.plan.unit(int(self.indices[place]))

    def __len__(self) -> int:
        return len(self.indices)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"Units({list(self[:3])}{', …' if len(self) > 3 else ''}, {len(self)} in all)"


@dataclass(frozen=True)
class ShardRecord:
    """One stored object and what it must hold."""

    key: str
    """Object key below the store's root."""
    size_bytes: int
    """Size of the stored object."""
    stored_digest: str
    """xxh3-128 of the stored bytes."""
    rows_digest: str
    """xxh3-128 of the decoded rows, padding included; equal for every codec."""


@dataclass(frozen=True)
class Moments:
    """Sums over the rows of one mask class: n, Σx and Σx² per dimension, in float64."""

    n: int
    sum: FloatArray
    sum_sq: FloatArray

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.sum + other.sum, self.sum_sq + other.sum_sq)

    @property
    def mean(self) -> FloatArray:
        """Mean per dimension [d]."""
        return self.sum / max(self.n, 1)

    @property
    def mean_squared_deviation(self) -> float:
        """E‖x - mean‖² / d, the average variance of a dimension."""
        mean = self.mean
        variance = self.sum_sq / max(self.n, 1) - mean**2
        return float(np.maximum(variance, 0.0).mean())


@dataclass(frozen=True)
class Receipt:
    """The small record that says a unit is done. Readers trust receipts alone."""

    unit: int
    term: int
    """Term of the lease under which it was made: 1 when it was done at the first try."""
    valid: int
    """Rows that are no padding."""
    shards: tuple[ShardRecord, ...] = ()
    moments: Mapping[str, Mapping[int, Moments]] = field(default_factory=dict)
    """Array name -> mask class -> sums. A mask class is the bit pattern of a row's mask."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Small results of the stage, JSON only."""
    writer: Mapping[str, Any] = field(default_factory=dict)
    """Host, process, device kind, threads, attention kernel, instruction set. Never compared."""

    def same_result(self, other: Receipt) -> bool:
        """Whether two workers made the same: the rows, not the time or the place, decide."""
        mine = [(s.key, s.rows_digest) for s in self.shards]
        theirs = [(s.key, s.rows_digest) for s in other.shards]
        same_figures = _text(self.figures) == _text(other.figures)
        return mine == theirs and self.valid == other.valid and same_figures


def _text(figures: Mapping[str, Any]) -> str:
    # As they are stored: a tuple is a list there, and NaN is equal to NaN.
    return json.dumps(json.loads(json.dumps(dict(figures))), sort_keys=True)
