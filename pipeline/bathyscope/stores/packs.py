"""Packs: the receipts of a thousand units in a few Parquet files.

A group is a thousand units side by side. `receipts/<segment>/packs/<group>/<number>.parquet` are
its numbered, create-only states, of which the highest counts: an odd number is a pack, an even
one says that the group is open, and its receipts lie one by one again. Whoever means to pack a
group creates the next odd number after the one that was read, so a process that slept while a
unit was voided finds that number taken or overtaken, and packs nothing.

Beside a pack lie the sums of its receipts, which are large and seldom wanted: unit by unit in
`<number>-<nonce>.moments.parquet`, and added up per split in `<number>-<nonce>.totals.parquet`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bathyscope.errors import MissingArtifact, StoreError
from bathyscope.stores.objects import Objects
from bathyscope.stores.pack_tables import (
    RECEIPTS,
    Totals,
    from_row,
    tables,
    to_moments,
    to_parquet,
)
from bathyscope.values import Moments, Receipt

GROUP = 1000
"""Units of a pack."""

Ints = npt.NDArray[np.int64]

_FORMAT = b"1"


class Packs:
    """The packs of one segment."""

    def __init__(self, objects: Objects, segment: str) -> None:
        self._objects = objects
        self._folder = f"receipts/{segment}/packs"

    def numbers(self) -> dict[int, int]:
        """The number that counts of every group that has one."""
        found: dict[int, int] = {}
        for key, _ in self._objects.walk(self._folder):
            folder, name = key.rsplit("/", 2)[-2:]
            number = name.removesuffix(".parquet")
            if folder.isdigit() and number.isdigit():
                group = int(folder)
                found[group] = max(found.get(group, 0), int(number))
        return found

    def number(self, group: int) -> int:
        """The number that counts of one group, 0 when there is none."""
        names = self._objects.files(f"{self._folder}/{group:05d}")
        numbers = (name.removesuffix(".parquet") for name in names)
        return max((int(n) for n in numbers if n.isdigit()), default=0)

    def current(self, group: int) -> Pack | None:
        """The pack of a group, or None while its receipts lie one by one."""
        number = self.number(group)
        return self.open(group, number) if number % 2 else None

    def open(self, group: int, number: int) -> Pack:
        """The pack of that number. Raises `StoreError` when it is damaged."""
        return Pack(self._objects, self._key(group, number), group)

    def create(
        self, group: int, after: int, receipts: Iterable[Receipt], splits: Mapping[int, str]
    ) -> bool:
        """Write the next pack of a group; False when its state is no longer `after`.

        `receipts` are those of all its units, in order; `splits` says of which split a unit is.
        """
        assert after % 2 == 0, after
        stem = f"{self._folder}/{group:05d}/{after + 1:04d}-{secrets.token_hex(4)}"
        names = {"moments": f"{stem}.moments.parquet", "totals": f"{stem}.totals.parquet"}
        table, moments, totals = tables(receipts, splits)
        assert table.num_rows == GROUP, (group, table.num_rows)
        self._objects.put(names["moments"], moments, fsync=True)
        self._objects.put(names["totals"], to_parquet(totals), fsync=True)
        table = table.replace_schema_metadata({"format": _FORMAT, **names})
        if self._objects.create(self._key(group, after + 1), to_parquet(table), fsync=True):
            return True
        self._objects.delete_many(names.values())
        return False

    def reopen(self, group: int, after: int) -> bool:
        """Say that the receipts of a group lie one by one; False when its state is another now.

        From then on a pack that was under way can no longer come to count.
        """
        number = after + 1 if after % 2 else after + 2
        # Two processes that say the same must not both take it for theirs: see Objects.create.
        metadata = {"format": _FORMAT, "nonce": secrets.token_hex(8)}
        empty = RECEIPTS.empty_table().replace_schema_metadata(metadata)
        return self._objects.create(self._key(group, number), to_parquet(empty), fsync=True)

    def drop_below(self, group: int, number: int) -> None:
        """Remove the files of earlier states of a group."""
        folder = f"{self._folder}/{group:05d}"
        numbered = ((n, re.match(r"\d+", n)) for n in self._objects.files(folder))
        old = [n for n, found in numbered if found and int(found[0]) < number]
        self._objects.delete_many(f"{folder}/{name}" for name in old)

    def raw(self, group: int, number: int) -> bytes:
        """The bytes of a pack, readable or not."""
        return self._objects.get(self._key(group, number))

    def _key(self, group: int, number: int) -> str:
        return f"{self._folder}/{group:05d}/{number:04d}.parquet"


class Pack:
    """One pack. Receipts are made one at a time; their sums are read when asked for.

    Raises `StoreError` when it is damaged, or is another group's.
    """

    def __init__(self, objects: Objects, key: str, group: int) -> None:
        self.key = key
        self.group = group
        self._objects = objects

    def counts(self) -> tuple[Ints, Ints]:
        """Valid rows [GROUP] and bytes of the shards [GROUP]. Reads these columns only."""
        table = self._columns("unit", "valid", "stored_bytes")
        self._check_units(table)
        # Copies: views would hold the buffers of the whole table.
        return table.column("valid").to_numpy().copy(), table.column(
            "stored_bytes"
        ).to_numpy().copy()

    def writers(self) -> set[str]:
        """The distinct writers, as JSON. Reads this column only."""
        return set(self._columns("writer").column("writer").unique().to_pylist())

    def receipt(self, unit: int) -> Receipt:
        """The receipt of a unit of the group."""
        row = self._table.slice(unit - self.group * GROUP, 1).to_pylist()[0]
        return from_row(row, LaterMoments(lambda: self.moments(unit)))

    def batches(self, size: int = 64) -> Iterator[list[Receipt]]:
        """All receipts in order of units, some at a time, with their sums."""
        first = self.group * GROUP
        for start in range(first, first + GROUP, size):
            stop = min(start + size, first + GROUP)
            sums = self._sums(start, stop)
            rows = self._table.slice(start - first, stop - start).to_pylist()
            yield [from_row(row, sums.get(row["unit"], {})) for row in rows]

    def moments(self, unit: int) -> dict[str, dict[int, Moments]]:
        """The sums of one unit: array -> mask class -> sums."""
        return self._sums(unit, unit + 1).get(unit, {})

    def totals(self) -> Totals:
        """The sums of all units per split, array and mask class, added in order of units."""
        key = self._names["totals"]
        with _explained(self._objects, key):
            rows = _read(self._objects, key).to_pylist()
        return {(r["split"], r["array"], r["mask_class"]): to_moments(r) for r in rows}

    @cached_property
    def _table(self) -> pa.Table:
        with _explained(self._objects, self.key):
            table = _read(self._objects, self.key)
        self._check_units(table)
        return table

    @cached_property
    def _names(self) -> dict[str, str]:
        names = self._table.schema.metadata or {}
        with _explained(self._objects, self.key):
            return {name: names[name.encode()].decode() for name in ("moments", "totals")}

    def _columns(self, *names: str) -> pa.Table:
        with self._parquet(self.key) as parquet:
            return parquet.read(list(names), use_threads=False)

    def _sums(self, start: int, stop: int) -> dict[int, dict[str, dict[int, Moments]]]:
        """Unit -> array -> mask class -> sums. Only row groups that hold the units are read."""
        found: dict[int, dict[str, dict[int, Moments]]] = {}
        with self._parquet(self._names["moments"]) as parquet:
            for group in range(parquet.num_row_groups):
                units = parquet.metadata.row_group(group).column(0).statistics
                if units is None or (units.min < stop and units.max >= start):
                    rows = parquet.read_row_group(group, use_threads=False).to_pylist()
                    for row in rows:
                        if start <= row["unit"] < stop:
                            arrays = found.setdefault(row["unit"], {})
                            classes = arrays.setdefault(row["array"], {})
                            classes[row["mask_class"]] = to_moments(row)
        return found

    @contextmanager
    def _parquet(self, key: str) -> Iterator[pq.ParquetFile]:
        """A file of the pack, read by this thread alone and only where it is asked for."""
        with _explained(self._objects, key), self._objects.open(key) as file:
            yield pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)

    def _check_units(self, table: pa.Table) -> None:
        wanted = np.arange(self.group * GROUP, (self.group + 1) * GROUP)
        if not np.array_equal(table.column("unit").to_numpy(), wanted):
            raise StoreError(
                f"Pack {self.key} of {self._objects.location} has other units than those of group "
                f"{self.group}. It was copied there: nothing of it was used. `bathyscope verify` "
                "names the command that repairs it."
            )


class LaterMoments(Mapping[str, Mapping[int, Moments]]):
    """The sums of a receipt, read each time they are asked for and never kept."""

    def __init__(self, load: Any) -> None:
        self._load = load

    def __getitem__(self, array: str) -> Mapping[int, Moments]:
        found: Mapping[int, Moments] = self._load()[array]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())


def _read(objects: Objects, key: str) -> pa.Table:
    # Not `read_table`: its scanner reads in threads of its own, which may outlive the interpreter.
    data = pa.BufferReader(objects.get(key))
    return pq.ParquetFile(data, page_checksum_verification=True).read(use_threads=False)


@contextmanager
def _explained(objects: Objects, key: str) -> Iterator[None]:
    """Explains what Parquet says of a damaged pack."""
    try:
        yield
    except MissingArtifact:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(
            f"{key} of {objects.location} is no pack of receipts: {cause}. Nothing of it was used. "
            "`bathyscope verify` names the units that it held and the command that repairs them."
        ) from error
