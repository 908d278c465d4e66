"""Checks a segment against its receipts: every receipt, every size, every stored byte.

Nothing is changed. Each fault says what was found and how it is repaired.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash

from bathyscope.errors import MissingArtifact, StoreError
from bathyscope.stores.manifests import Segment
from bathyscope.stores.objects import Objects
from bathyscope.stores.packs import GROUP
from bathyscope.stores.receipts import Receipts, of_group
from bathyscope.stores.retired import retired_units
from bathyscope.stores.shards import ArraySpec, metadata_fault
from bathyscope.stores.units import named_shards
from bathyscope.values import Receipt, ShardRecord, Unit

PIECE_BYTES = 8 * 2**20
_BATCH = 64

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fault:
    """Something that is not as a receipt or a manifest says."""

    what: str
    units: tuple[int, ...] = ()
    """Units that must be done again."""
    packs: tuple[int, ...] = ()
    """Packs of receipts that cannot be read."""
    segment: str = ""
    """Empty when it lies outside of segments."""
    redo: bool = True
    """Whether `bathyscope redo` has something to do."""
    again: bool = True
    """Whether the stage has to run again."""


@dataclass
class Checked:
    """What was looked at, and what was found."""

    units: int = 0
    shards: int = 0
    read_shards: int = 0
    read_bytes: int = 0
    seconds: float = 0.0
    leftovers: int = 0
    """Objects that nothing refers to: of killed writers or units that are not done."""
    faults: list[Fault] = field(default_factory=list)

    def add(self, other: Checked) -> None:
        """Take over the counts and faults of another part."""
        for name in ("units", "shards", "read_shards", "read_bytes", "seconds", "leftovers"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.faults += other.faults


def check_segment(
    objects: Objects,
    segment: Segment,
    *,
    complete: bool,
    share: float = 1.0,
    seed: int = 0,
    threads: int = 2,
    tell: Callable[[int], None] = lambda _: None,
) -> Checked:
    """Check a segment. Of a `share` of its shards, drawn with `seed`, all bytes are read.

    `complete` says whether every unit must be done. `tell` is called with the bytes of every
    shard that was read.
    """
    started = time.perf_counter()
    check = _Check(objects, segment, share=share, seed=seed)
    check.metadata()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[tuple[int, Fault | None]]] = deque()
        for receipt in check.receipts(complete):
            for shard in check.due(receipt):
                waiting.append(pool.submit(check.read, receipt.unit, shard))
                while len(waiting) > 4 * threads:
                    check.count(*waiting.popleft().result(), tell)
        while waiting:
            check.count(*waiting.popleft().result(), tell)
    check.found.seconds = time.perf_counter() - started
    return check.found


class _Check:
    """One pass over a segment."""

    def __init__(self, objects: Objects, segment: Segment, *, share: float, seed: int) -> None:
        self.found = Checked()
        self._objects = objects
        self._segment = segment
        self._receipts = Receipts(objects, segment.name)
        self._share = share
        self._draw = np.random.default_rng(seed)
        self._sizes = {spec.name: self._listed_sizes(spec) for spec in segment.arrays}
        self._retired = set(retired_units(objects, segment.name).tolist())
        self._seen = {name: np.zeros(len(sizes), dtype=bool) for name, sizes in self._sizes.items()}

    def metadata(self) -> None:
        """The Zarr metadata of every array, which other readers open it by."""
        for spec in self._segment.arrays:
            said = metadata_fault(
                self._objects, self._segment.name, spec, capacity=self._segment.capacity(spec.name)
            )
            if said:
                what = f"{spec.name}/{self._segment.name}/zarr.json {said}"
                self.found.faults.append(Fault(what, segment=self._segment.name, again=False))

    def receipts(self, complete: bool) -> Iterator[Receipt]:
        """Every receipt that is sound, once; the others are noted."""
        loose, packed = self._receipts.listed()
        done = np.zeros(self._segment.plan.num_units, dtype=bool)
        for receipt in self._all(loose, packed):
            if receipt.unit >= len(done):
                continue
            done[receipt.unit] = True
            self.found.units += 1
            said = self._wrong(receipt)
            if said:
                self._fault(f"the receipt of unit {receipt.unit} {said}", receipt.unit)
            else:
                yield receipt
        foreign = np.unique(loose[loose >= len(done)])
        for unit in foreign.tolist():
            self._fault(f"unit {unit} has a receipt, but the segment has no such unit", unit)
        self._missing(done, complete)
        self.found.leftovers += sum(
            int(((sizes >= 0) & ~self._seen[name]).sum()) for name, sizes in self._sizes.items()
        )

    def due(self, receipt: Receipt) -> Iterator[ShardRecord]:
        """Shards of a receipt with the right size, of those that are drawn; the rest is noted."""
        if receipt.unit in self._retired:
            return
        for spec, number, shard in self._shards(receipt):
            self.found.shards += 1
            self._seen[spec.name][number] = True
            size = int(self._sizes[spec.name][number])
            if size != shard.size_bytes:
                has = "no object" if size < 0 else f"{size} bytes"
                self._fault(
                    f"shard {shard.key} of unit {receipt.unit} has {has}; its receipt says "
                    f"{shard.size_bytes}",
                    receipt.unit,
                )
            elif self._share >= 1 or self._draw.random() < self._share:
                yield shard

    def read(self, unit: int, shard: ShardRecord) -> tuple[int, Fault | None]:
        """Read a shard and compare its digest."""
        digest = xxhash.xxh3_128()
        buffer = memoryview(bytearray(min(PIECE_BYTES, shard.size_bytes)))
        try:
            for start in range(0, shard.size_bytes, PIECE_BYTES):
                piece = buffer[: min(PIECE_BYTES, shard.size_bytes - start)]
                self._objects.read_into(shard.key, start, [piece])
                digest.update(piece)
        except (StoreError, MissingArtifact) as error:
            return 0, self._made(f"shard {shard.key} of unit {unit} cannot be read: {error}", unit)
        if digest.hexdigest() == shard.stored_digest:
            return shard.size_bytes, None
        said = f"shard {shard.key} of unit {unit} holds other bytes than its receipt says"
        return shard.size_bytes, self._made(said, unit)

    def count(self, size: int, fault: Fault | None, tell: Callable[[int], None]) -> None:
        """Take over what `read` found."""
        self.found.read_shards += 1
        self.found.read_bytes += size
        if fault:
            self.found.faults.append(fault)
        tell(size)

    def _all(self, loose: Ints, packed: dict[int, int]) -> Iterator[Receipt]:
        for group, number in sorted(packed.items()):
            yield from self._of_pack(group, number, of_group(loose, group).tolist())
        alone = loose[~np.isin(loose // GROUP, list(packed))].tolist()
        for start in range(0, len(alone), _BATCH):
            for unit in alone[start : start + _BATCH]:
                receipt = self._loose(unit)
                if receipt:
                    yield receipt

    def _of_pack(self, group: int, number: int, beside: list[int]) -> Iterator[Receipt]:
        pack = self._receipts.packs.open(group, number)
        strangers = {unit: self._loose(unit) for unit in beside}
        try:
            pack.counts()
            pack.totals()
            for batch in pack.batches():
                for receipt in batch:
                    other = strangers.get(receipt.unit)
                    if other and not receipt.same_result(other):
                        said = f"unit {receipt.unit} has a receipt beside its pack that differs"
                        self._fault(said, receipt.unit)
                    self.found.leftovers += other is not None
                    yield receipt
        except StoreError as error:
            fault = Fault(str(error), packs=(group,), segment=self._segment.name)
            self.found.faults.append(fault)

    def _loose(self, unit: int) -> Receipt | None:
        try:
            return self._receipts.loose(unit)
        except StoreError as error:
            self._fault(str(error).split(" Nothing of the unit", 1)[0], unit)
            return None

    def _wrong(self, receipt: Receipt) -> str | None:
        """What a receipt says that cannot be, or None."""
        if self._segment.arrays and self._named(receipt) is None:
            return "lists other shards than those of the unit: it is another unit's or segment's"
        if self._segment.arrays and not 0 <= receipt.valid <= self._segment.rows_per_unit:
            return f"counts {receipt.valid} rows; a unit has {self._segment.rows_per_unit}"
        for array, classes in receipt.moments.items():
            rows = sum(m.n for m in classes.values())
            wanted_rows = self._segment.valid_rows(array, receipt.valid)
            if rows != wanted_rows:
                return f"counts {wanted_rows} rows, its sums of {array} are over {rows}"
        return None

    def _shards(self, receipt: Receipt) -> Iterator[tuple[ArraySpec, int, ShardRecord]]:
        named = self._named(receipt) or []
        for (spec, number), shard in zip(named, receipt.shards, strict=True):
            yield spec, number, shard

    def _named(self, receipt: Receipt) -> list[tuple[ArraySpec, int]] | None:
        keys = [shard.key for shard in receipt.shards]
        return named_shards(self._segment, self._unit(receipt), keys)

    def _missing(self, done: npt.NDArray[np.bool_], complete: bool) -> None:
        broken = {u for f in self.found.faults for u in f.units}
        for group in {g for f in self.found.faults for g in f.packs}:
            broken |= set(range(group * GROUP, (group + 1) * GROUP))
        if complete:
            for unit in np.flatnonzero(~done).tolist():
                if unit not in broken:
                    what = f"unit {unit} has no receipt"
                    self.found.faults.append(Fault(what, segment=self._segment.name, redo=False))

    def _listed_sizes(self, spec: ArraySpec) -> Ints:
        """Size of each shard by its number, -1 where there is none."""
        sizes = np.full(self._segment.capacity(spec.name) // spec.shard_rows, -1, dtype=np.int64)
        folder = f"{spec.name}/{self._segment.name}"
        for key, size in self._objects.walk(folder):
            parts = key.rsplit("/", 1)[-1].split(".")
            if parts[0] == "c" and parts[1].isdigit() and int(parts[1]) < len(sizes):
                sizes[int(parts[1])] = size
            elif parts != ["zarr", "json"]:
                self.found.leftovers += 1
        return sizes

    def _unit(self, receipt: Receipt) -> Unit:
        return self._segment.plan.unit(receipt.unit)

    def _fault(self, what: str, *units: int) -> None:
        self.found.faults.append(self._made(what, *units))

    def _made(self, what: str, *units: int) -> Fault:
        return Fault(what, units=units, segment=self._segment.name)
