"""Attribution graphs in a store: edges as Zarr arrays that are read by ranges, for any size.

A folder holds `indices` and `values`, an entry per edge, in rows of targets; `indptr` and whatever
else has a number per node; and `graph.json`, written last, which says how many nodes and edges
there are and lists every shard with its size and digests. A graph that is opened has the numbers
per node in memory and reads edges when they are asked for, each chunk checked.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from bathyscope.errors import FormatVersionError, StoreError
from bathyscope.stores.objects import Objects
from bathyscope.stores.shard_reader import ShardReader
from bathyscope.stores.shards import ArraySpec, create_array, put_shard
from bathyscope.values import Json, ShardRecord

Array = npt.NDArray[Any]

MANIFEST, SEGMENT, FORMAT = "graph.json", "all", 1
INDICES, VALUES, INDPTR = "indices", "values", "indptr"
_DTYPES = {INDICES: "int32", VALUES: "float32"}
CHUNK_ROWS, SHARD_ROWS = 2**16, 2**22
_WINDOW = 8 * CHUNK_ROWS


class GraphWriter:
    """Writes a graph whose edges come row after row, some at a time.

    `num_edges` must be known: it is the last number of `indptr`.
    """

    def __init__(self, objects: Objects, num_edges: int) -> None:
        objects.delete(MANIFEST)
        self._objects, self._num_edges = objects, num_edges
        self._records: dict[str, list[ShardRecord]] = {}
        self._waiting: dict[str, list[Array]] = {INDICES: [], VALUES: []}
        self._specs: dict[str, ArraySpec] = {}
        for name, dtype in _DTYPES.items():
            self._create(name, (), dtype, num_edges)
        self.written = 0
        """Edges that have come."""

    def append(self, indices: Array, values: Array) -> None:
        """Add the next edges, int32 and float32 [m]; whole shards are written."""
        assert len(indices) == len(values), (len(indices), len(values))
        self.written += len(indices)
        for name, entries in ((INDICES, indices), (VALUES, values)):
            self._waiting[name].append(np.array(entries, dtype=_DTYPES[name]))
            if sum(map(len, self._waiting[name])) >= SHARD_ROWS:
                self._flush(name)

    def finish(self, counts: Json, per_node: dict[str, Array]) -> None:
        """Write what is per node and the manifest; `counts` are JSON values kept as they are.

        Raises `StoreError` when another number of edges came than was said.
        """
        if self.written != self._num_edges:
            raise StoreError(
                f"{self.written} edges came for the graph in {self._objects.location}, "
                f"{self._num_edges} were said to. Nothing was finished: write all rows again."
            )
        for name in _DTYPES:
            self._flush(name, rest=True)
        for name, rows in per_node.items():
            self._create(name, rows.shape[1:], str(rows.dtype), len(rows))
            for start in range(0, len(rows), SHARD_ROWS):
                self._put(name, rows[start : start + SHARD_ROWS])
        manifest = {
            "format": FORMAT,
            "num_edges": self._num_edges,
            "counts": counts,
            "arrays": {
                name: {
                    "spec": spec.to_dict(),
                    "rows": self._num_edges if name in _DTYPES else len(per_node[name]),
                    "shards": [record.__dict__ for record in self._records[name]],
                }
                for name, spec in self._specs.items()
            },
        }
        self._objects.put(MANIFEST, json.dumps(manifest).encode())

    def _create(self, name: str, row_shape: tuple[int, ...], dtype: str, rows: int) -> None:
        spec = ArraySpec(name, row_shape, dtype, dtype, CHUNK_ROWS, SHARD_ROWS)
        capacity = max(-(-rows // SHARD_ROWS), 1) * SHARD_ROWS
        self._objects.delete_folder(name)
        create_array(self._objects, SEGMENT, spec, capacity=capacity)
        self._specs[name], self._records[name] = spec, []

    def _flush(self, name: str, *, rest: bool = False) -> None:
        if not self._waiting[name]:
            return
        entries = np.concatenate(self._waiting[name])
        whole = len(entries) if rest else len(entries) // SHARD_ROWS * SHARD_ROWS
        for start in range(0, whole, SHARD_ROWS):
            self._put(name, entries[start : min(start + SHARD_ROWS, whole)])
        self._waiting[name] = [entries[whole:].copy()]

    def _put(self, name: str, rows: Array) -> None:
        records = self._records[name]
        records.append(
            put_shard(
                self._objects, self._specs[name], segment=SEGMENT, shard=len(records), rows=rows
            )
        )


class StoredEntries:
    """One number per edge, read from a store by ranges.

    The last range that was read is kept with what follows it, so that rows one after another cost
    one read together.
    """

    def __init__(self, reader: ShardReader, length: int) -> None:
        self._reader, self._length = reader, length
        self._start = 0
        self._window: Array = np.empty(0, dtype=reader.spec.dtype)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, entries: slice) -> Array:
        """The entries of a range [stop - start]. Raises `StoreError` for a damaged shard."""
        start, stop, step = entries.indices(self._length)
        assert step == 1, entries
        stop = max(start, stop)
        if start < self._start or stop > self._start + len(self._window):
            first = start // CHUNK_ROWS * CHUNK_ROWS
            last = min(max(stop, first + _WINDOW), self._length)
            window = np.empty(last - first, dtype=self._reader.spec.dtype)
            self._reader.read_into(first, window)
            self._start, self._window = first, window
        return self._window[start - self._start : stop - self._start]


class StoredGraph:
    """A graph in a store: counts, numbers per node, and edges that are read by ranges.

    Raises `MissingArtifact` when there is none, and `FormatVersionError` for a newer format.
    """

    def __init__(self, objects: Objects) -> None:
        manifest = json.loads(objects.get(MANIFEST))
        if manifest["format"] > FORMAT:
            raise FormatVersionError(
                f"The graph in {objects.location} has format {manifest['format']}; this version "
                f"knows {FORMAT}. Install a newer Bathyscope to read it."
            )
        self._objects, self._arrays = objects, manifest["arrays"]
        self.counts: Json = manifest["counts"]
        """What `GraphWriter.finish` was given."""
        self.indices = StoredEntries(self._reader(INDICES), manifest["num_edges"])
        self.values = StoredEntries(self._reader(VALUES), manifest["num_edges"])

    def per_node(self, name: str) -> Array:
        """An array that was written with a row per node."""
        record = self._arrays[name]
        reader = self._reader(name)
        rows = np.empty((record["rows"], *reader.spec.row_shape), dtype=reader.spec.dtype)
        reader.read_into(0, rows)
        return rows

    @property
    def names(self) -> list[str]:
        """Names of the arrays with a row per node."""
        return [name for name in self._arrays if name not in _DTYPES]

    def _reader(self, name: str) -> ShardReader:
        record = self._arrays[name]
        sizes = [shard["size_bytes"] for shard in record["shards"]]
        return ShardReader(
            self._objects, ArraySpec.from_dict(record["spec"]), SEGMENT, sizes.__getitem__
        )
