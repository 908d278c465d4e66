"""Receipts: created once, never overwritten, found by unit.

Keys are `receipts/<segment>/<thousand>/<unit>.json`, so that no folder holds more than a
thousand of them. A full thousand may be packed: see `bathyscope.stores.packs`. A unit is done
when its receipt lies there or in the pack that counts.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from bathyscope.errors import MissingArtifact, ReceiptConflict, StoreError
from bathyscope.stores.objects import Objects
from bathyscope.stores.packs import GROUP, Packs
from bathyscope.stores.receipt_json import decode, encode
from bathyscope.values import Receipt

THREADS = 16
"""Requests under way at once when many receipts are read or written."""


class Receipts:
    """The receipts of one segment."""

    def __init__(self, objects: Objects, segment: str) -> None:
        self.objects = objects
        self.segment = segment
        self.packs = Packs(objects, segment)
        self._folder = f"receipts/{segment}"
        self._quarantine = f"quarantine/{segment}"

    def get(self, unit: int) -> Receipt | None:
        """The receipt of a unit, or None when it is not done.

        Raises `StoreError` when what lies there is no receipt of this unit.
        """
        # In this order: a receipt that is packed in between is found in the pack.
        return self.loose(unit) or self._packed(unit)

    def create(self, receipt: Receipt) -> Receipt:
        """Store a receipt, or accept the one that is there when it says the same.

        Raises `ReceiptConflict`, and sets both aside, when another worker made something else
        of this unit: neither can be trusted until somebody has looked.
        """
        there = self._packed(receipt.unit)
        while there is None:
            if self.objects.create(self.key(receipt.unit), encode(receipt), fsync=True):
                # Another worker's may have been packed, and its file removed, in between.
                there = self._packed(receipt.unit)
                if there is None:
                    return receipt
            else:
                # None when it was voided after it was found to be there.
                there = self.get(receipt.unit)
        if not there.same_result(receipt):
            raise self._conflict(there, receipt)
        return there

    def compare(self, receipt: Receipt) -> None:
        """Compare a second result with the receipt of its unit, if that is still there.

        Raises `ReceiptConflict`, and sets both aside, when they differ.
        """
        there = self.get(receipt.unit)
        if there is not None and not there.same_result(receipt):
            raise self._conflict(there, receipt)

    def loose(self, unit: int) -> Receipt | None:
        """The receipt of a unit that lies by itself, or None."""
        key = self.key(unit)
        try:
            receipt = decode(self.objects.get(key))
        except MissingArtifact:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(unit, f"is no receipt: {error!r}") from error
        if receipt.unit != unit:
            raise self._damaged(unit, f"is the receipt of unit {receipt.unit}")
        return receipt

    def loose_many(self, units: Sequence[int]) -> list[Receipt | None]:
        """`loose` of many units, several requests at a time."""
        if len(units) < 2:
            return [self.loose(unit) for unit in units]
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self.loose, units))

    def listed(self) -> tuple[npt.NDArray[np.int64], dict[int, int]]:
        """Units whose receipts lie by themselves, sorted, and the number of each packed group.

        A unit that is packed in between may be in both.
        """
        keys = (key for key, _ in self.objects.walk(self._folder) if key.endswith(".json"))
        found = np.fromiter((int(key[-13:-5]) for key in keys), dtype=np.int64)
        packed = {g: n for g, n in self.packs.numbers().items() if n % 2}
        return np.sort(found), packed

    def units(self) -> npt.NDArray[np.int64]:
        """Units that are done, sorted, from the listing alone."""
        loose, packed = self.listed()
        return merged(loose, sorted(packed))

    def void(self, unit: int, reason: str) -> bool:
        """Take a receipt back, so that the unit is done again; False when there is none.

        It is kept in `quarantine/<segment>/` with the reason. Raises `StoreError` when another
        process voids units of the same pack at this moment.
        """
        data = self._raw(unit)
        if data is None:
            # A pack that was under way may still hold it, if an earlier call broke off here.
            self._withdraw(unit)
            return False
        self._set_aside(f"{unit:08d}", data, reason)
        self._withdraw(unit)
        return True

    def drop_loose(self, units: Sequence[int]) -> None:
        """Remove receipts that lie by themselves: their pack counts."""
        self.objects.delete_many(self.key(unit) for unit in units)

    def key(self, unit: int) -> str:
        """Key of the receipt of a unit while it lies by itself."""
        return f"{self._group_folder(unit // GROUP)}/{unit:08d}.json"

    def redo_command(self, *units: int) -> str:
        """What a person types to have units done again."""
        return redo_command(self.objects.location, self.segment, units=units)

    def void_pack(self, group: int, reason: str) -> bool:
        """Take back a whole pack that cannot be read; False when the group has none.

        Its units are done again, but for those whose receipts lie beside it.
        """
        number = self.packs.number(group)
        if number % 2 == 0:
            return False
        self._set_aside(f"pack-{group:05d}", self.packs.raw(group, number), reason, "parquet")
        if self.packs.reopen(group, after=number):
            self.packs.drop_below(group, number + 1)
        return True

    def _group_folder(self, group: int) -> str:
        return f"{self._folder}/{group:05d}"

    def _packed(self, unit: int) -> Receipt | None:
        pack = self.packs.current(unit // GROUP)
        return None if pack is None else pack.receipt(unit)

    def _raw(self, unit: int) -> bytes | None:
        try:
            return self.objects.get(self.key(unit))
        except MissingArtifact:
            packed = self._packed(unit)
            return None if packed is None else encode(packed)

    def _withdraw(self, unit: int) -> None:
        """Leave no receipt of a unit, and see to it that no pack under way brings one back."""
        group = unit // GROUP
        number = self.packs.number(group)
        if number % 2:
            self._unpack(group, number, unit)
        self.objects.delete(self.key(unit))
        if not self.packs.reopen(group, after=number):
            raise StoreError(
                f"Another process packs or voids units near {unit} of segment {self.segment} in "
                f"{self.objects.location} at this moment. Wait until it is over, then give "
                f"`{self.redo_command(unit)}` again."
            )
        if number % 2:
            # Whoever made the pack may just have removed what it holds.
            self._unpack(group, number, unit)
            self.packs.drop_below(group, number + 1)

    def _unpack(self, group: int, number: int, without: int) -> None:
        def create(receipt: Receipt) -> None:
            self.objects.create(self.key(receipt.unit), encode(receipt), fsync=True)

        pack = self.packs.open(group, number)
        there = {int(name[:-5]) for name in self.objects.files(self._group_folder(group))}
        with ThreadPoolExecutor(THREADS) as pool:
            for some in pack.batches():
                list(pool.map(create, (r for r in some if r.unit not in {without, *there})))

    def _conflict(self, there: Receipt, receipt: Receipt) -> ReceiptConflict:
        reason = "done twice with different results"
        self._set_aside(f"{receipt.unit:08d}", encode(receipt), reason)
        self._set_aside(f"{receipt.unit:08d}", encode(there), reason)
        self._withdraw(receipt.unit)
        return ReceiptConflict(
            f"Unit {receipt.unit} of {self.objects.location} was done twice with different "
            f"results: by {_who(there)} and by {_who(receipt)}. Both receipts are in "
            f"{self._quarantine}/ and the unit counts as not done. The same device kind, dtype, "
            "attention kernel, batch shape and thread count give the same bytes: compare the two "
            "records, then run again."
        )

    def _set_aside(self, what: str, data: bytes, reason: str, kind: str = "json") -> None:
        name = f"{self._quarantine}/{what}.{xxhash.xxh3_64_hexdigest(data)}"
        self.objects.put(f"{name}.{kind}", data)
        self.objects.put(f"{name}.reason.txt", reason.encode())

    def _damaged(self, unit: int, what: str) -> StoreError:
        return StoreError(
            f"{self.key(unit)} of {self.objects.location} {what}. Nothing of the unit was read. "
            f"Give `{self.redo_command(unit)}`, then run the stage again: only that unit is redone."
        )


def redo_command(
    location: str, segment: str, *, units: Sequence[int] = (), packs: Sequence[int] = ()
) -> str:
    """What a person types to have units, or all units of packs, done again."""
    words = ["bathyscope", "redo", location, f"redo.segment={segment}"]
    for name, numbers in (("units", units), ("packs", packs)):
        if numbers:
            words.append(f"redo.{name}=[{','.join(map(str, numbers))}]")
    return shlex.join(words)


def of_group(units: npt.NDArray[np.int64], group: int) -> npt.NDArray[np.int64]:
    """Those of sorted units that belong to a group, found without a look at the others."""
    low, high = np.searchsorted(units, [group * GROUP, (group + 1) * GROUP])
    return units[low:high]


def merged(loose: npt.NDArray[np.int64], groups: Sequence[int]) -> npt.NDArray[np.int64]:
    """Units that lie by themselves and those of packed groups, sorted, each once."""
    packed = np.asarray(groups, dtype=np.int64)
    alone = loose[~np.isin(loose // GROUP, packed)]
    members = (packed[:, None] * GROUP + np.arange(GROUP)).reshape(-1)
    return np.sort(np.concatenate([alone, members]))


def _who(receipt: Receipt) -> str:
    writer: Any = receipt.writer
    return f"{writer.get('host', 'an unknown host')} (process {writer.get('pid', '?')})"
