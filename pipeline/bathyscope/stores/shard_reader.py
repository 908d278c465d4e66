"""Reads rows of one array straight from its shards, checking every chunk.

A shard's index is read once. Chunks that lie side by side come with one read, which fills the
result without another copy where they are not compressed. Nothing is taken for granted: the size
of the object, the index' checksum and that of every chunk are compared, and a chunk that the index
does not know is an error, never zeros.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bathyscope.errors import MissingArtifact, StoreError
from bathyscope.stores.codecs import ZSTD, decompress
from bathyscope.stores.objects import Objects
from bathyscope.stores.shards import CRC_BYTES, ArraySpec, as_bytes, crc32c

_CACHED_INDICES = 4096
_ABSENT = 2**64 - 1

Index = npt.NDArray[np.uint64]


class _Run(NamedTuple):
    """Chunks first..stop of a shard whose stored bytes follow each other."""

    first: int
    stop: int


class ShardReader:
    """The rows of one array. Threads may share one.

    `size_of(shard)` is what a receipt says of a shard's size.
    """

    def __init__(
        self, objects: Objects, spec: ArraySpec, segment: str, size_of: Callable[[int], int]
    ) -> None:
        self.spec = spec
        self._objects = objects
        self._segment = segment
        self._size_of = size_of
        self._indices: OrderedDict[int, Index] = OrderedDict()
        self._lock = threading.Lock()

    def read_into(self, first: int, out: npt.NDArray[Any]) -> None:
        """Fill `out` [n, …] with rows first..first + n.

        Raises `StoreError` that says what is wrong with which shard.
        """
        assert out.flags.c_contiguous, out.strides
        assert out.dtype == self.spec.dtype, (out.dtype, self.spec)
        done = 0
        while done < len(out):
            shard, start = divmod(first + done, self.spec.shard_rows)
            count = min(len(out) - done, self.spec.shard_rows - start)
            self._read_shard(shard, start, out[done : done + count])
            done += count

    def _read_shard(self, shard: int, start: int, out: npt.NDArray[Any]) -> None:
        spec = self.spec
        index = self._index(shard)
        low, high = start // spec.chunk_rows, -(-(start + len(out)) // spec.chunk_rows)
        whole = self._aligned(low, high, start, out)
        data = whole.reshape(-1).view(np.uint8).reshape(high - low, spec.chunk_bytes)
        for run in _runs(index, low, high):
            self._read_run(shard, index, run, data[run.first - low : run.stop - low])
        if whole is not out:
            begin = start - low * spec.chunk_rows
            out[:] = whole[begin : begin + len(out)]

    def _aligned(self, low: int, high: int, start: int, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`out` itself when it holds whole chunks, else room for the chunks that it touches."""
        spec = self.spec
        rows = (high - low) * spec.chunk_rows
        if start % spec.chunk_rows == 0 and rows == len(out):
            return out
        return np.empty((rows, *spec.row_shape), dtype=spec.dtype)

    def _read_run(self, shard: int, index: Index, run: _Run, out: npt.NDArray[np.uint8]) -> None:
        lengths = index[run.first : run.stop, 1].astype(np.int64)
        bodies = self._bodies(shard, run, lengths, out)
        checksums = np.empty((len(lengths), CRC_BYTES), dtype=np.uint8)
        buffers = [as_bytes(b) for pair in zip(bodies, checksums, strict=True) for b in pair]
        self._fill(shard, int(index[run.first, 0]), buffers)
        for place, body in enumerate(bodies):
            if crc32c(as_bytes(body)) != checksums[place].tobytes():
                raise self._damaged(shard, f"chunk {run.first + place} has another checksum")
            if self.spec.codec == ZSTD:
                try:
                    decompress(as_bytes(body), out[place])
                except StoreError as error:
                    raise self._damaged(shard, str(error)) from error

    def _bodies(
        self, shard: int, run: _Run, lengths: npt.NDArray[np.int64], out: npt.NDArray[np.uint8]
    ) -> list[npt.NDArray[np.uint8]]:
        """Where the stored bytes of each chunk go: into the result, or aside to be decompressed."""
        if self.spec.codec == ZSTD:
            return [np.empty(length - CRC_BYTES, dtype=np.uint8) for length in lengths.tolist()]
        if (lengths != self.spec.chunk_bytes + CRC_BYTES).any():
            raise self._damaged(shard, f"chunk {run.first} or one after it has another length")
        return list(out)

    def _index(self, shard: int) -> Index:
        with self._lock:
            found = self._indices.get(shard)
            if found is not None:
                self._indices.move_to_end(shard)
                return found
        found = self._read_index(shard)
        with self._lock:
            self._indices[shard] = found
            if len(self._indices) > _CACHED_INDICES:
                self._indices.popitem(last=False)
        return found

    def _read_index(self, shard: int) -> Index:
        size = self._objects.size(self._key(shard))
        wanted = self._size_of(shard)
        if size is None:
            raise self._gone(shard)
        if size != wanted:
            raise self._damaged(shard, f"it has {size} bytes, its receipt says {wanted}")
        data = np.empty(self.spec.index_bytes, dtype=np.uint8)
        self._fill(shard, size - len(data), [as_bytes(data)])
        body, checksum = data[:-CRC_BYTES], data[-CRC_BYTES:]
        if crc32c(as_bytes(body)) != checksum.tobytes():
            raise self._damaged(shard, "its index has another checksum")
        index = body.view("<u8").astype(np.uint64).reshape(-1, 2)
        if (index == _ABSENT).any():
            raise self._damaged(shard, "a chunk is missing in its index")
        # Each first: the sum of two such numbers may not fit.
        if (index > size).any() or (index[:, 0] + index[:, 1] > size).any():
            raise self._damaged(shard, "its index points behind its end")
        if (index[:, 1] < CRC_BYTES).any():
            raise self._damaged(shard, "a chunk in its index is too short")
        return index

    def _fill(self, shard: int, start: int, buffers: list[memoryview]) -> None:
        try:
            self._objects.read_into(self._key(shard), start, buffers)
        except MissingArtifact:
            raise self._gone(shard) from None

    def _key(self, shard: int) -> str:
        return self.spec.shard_key(self._segment, shard)

    def _damaged(self, shard: int, what: str) -> StoreError:
        return StoreError(f"shard {self._key(shard)} is damaged: {what}")

    def _gone(self, shard: int) -> StoreError:
        return StoreError(
            f"Shard {self._key(shard)} of {self._objects.location} has gone since this reader was "
            "opened: the store was replaced. Open the run again"
        )


def _runs(index: Index, low: int, high: int) -> Iterator[_Run]:
    """Chunks low..high in the fewest reads, in order."""
    first = low
    for chunk in range(low + 1, high):
        before = index[chunk - 1]
        if int(before[0]) + int(before[1]) != int(index[chunk, 0]):
            yield _Run(first, chunk)
            first = chunk
    if first < high:
        yield _Run(first, high)
