"""What nights have seen and done so far. A night reads it, adds to it, and writes it anew.

Its two files are named by the night that wrote them, and that night's manifest names them. Those of
older nights are removed: what they say stands in the newer ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from bathyscope.runs.tables import from_parquet, to_parquet
from bathyscope.stages.nights.watched import Checkpoint, WatchedFile
from bathyscope.stores.objects import Objects
from bathyscope.values import Json

FOLDER = "ledger"


@dataclass(frozen=True)
class Pair:
    """An extraction: a slice of text that a checkpoint reads."""

    checkpoint: str
    slice: str


@dataclass
class Ledger:
    """All that the next night has to know."""

    files: dict[str, WatchedFile] = field(default_factory=dict)
    """By path, as they were when they were read."""
    slices: dict[str, Json] = field(default_factory=dict)
    """Figures of each slice by its name, the oldest first."""
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    """By name, in the order in which they were found."""
    done: list[Pair] = field(default_factory=list)
    """Extractions that are complete, in their order."""
    pending: list[Pair] = field(default_factory=list)
    """Those that are wanted and failed so far."""
    tables: dict[str, str] = field(default_factory=dict)
    """Key of the merged statistics of each checkpoint."""

    def digests(self) -> set[str]:
        """Of every file that was read."""
        return {file.digest for file in self.files.values()}

    def slices_of(self, checkpoint: str) -> list[str]:
        """The slices that a checkpoint has read, the oldest first."""
        read = {pair.slice for pair in self.done if pair.checkpoint == checkpoint}
        return [name for name in self.slices if name in read]

    def readers_of(self, slice_: str) -> list[str]:
        """The checkpoints that have read a slice, in the order in which they were found."""
        read = {pair.checkpoint for pair in self.done if pair.slice == slice_}
        return [name for name in self.checkpoints if name in read]


def load_ledger(objects: Objects, facts: Mapping[str, str]) -> Ledger:
    """The ledger that a night's manifest names; `objects` is the folder of nights."""
    record: Json = json.loads(objects.get(facts["ledger_key"]))
    rows = from_parquet(objects.get(facts["files_key"])).to_pylist()
    return Ledger(
        files={row["path"]: WatchedFile(**row) for row in rows},
        slices=record["slices"],
        checkpoints={row["name"]: Checkpoint(**row) for row in record["checkpoints"]},
        done=[Pair(**row) for row in record["done"]],
        pending=[Pair(**row) for row in record["pending"]],
        tables=record["tables"],
    )


def save_ledger(objects: Objects, ledger: Ledger, night: int) -> dict[str, str]:
    """Write the two files of a night and return their keys, as a manifest has them."""
    keys = {
        "ledger_key": f"{FOLDER}/{night:08d}.json",
        "files_key": f"{FOLDER}/{night:08d}.parquet",
    }
    record = {
        "slices": ledger.slices,
        "checkpoints": [asdict(each) for each in ledger.checkpoints.values()],
        "done": [asdict(pair) for pair in ledger.done],
        "pending": [asdict(pair) for pair in ledger.pending],
        "tables": ledger.tables,
    }
    rows = [asdict(file) for file in ledger.files.values()]
    schema = pa.schema(
        [
            pa.field("path", pa.string()),
            pa.field("size", pa.int64()),
            pa.field("mtime_ns", pa.int64()),
            pa.field("digest", pa.string()),
        ]
    )
    objects.put(keys["files_key"], to_parquet(pa.Table.from_pylist(rows, schema=schema)))
    objects.put(keys["ledger_key"], json.dumps(record, indent=1).encode())
    return keys


def drop_older(objects: Objects, night: int) -> None:
    """Remove the files of nights before the one before this one."""
    old = [f"{FOLDER}/{n}" for n in objects.files(FOLDER) if int(n.partition(".")[0]) < night - 1]
    objects.delete_many(old)
