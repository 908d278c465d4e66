"""Frozen values that cross floors: units of work, what they leave behind, what identifies them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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

    def units(self) -> list[Unit]:
        """The units in order of their index."""
        units: list[Unit] = []
        for split, first, last in self.ranges:
            for start in range(first, last, self.items_per_unit):
                stop = min(start + self.items_per_unit, last)
                units.append(Unit(len(units), start, stop, split))
        return units

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
