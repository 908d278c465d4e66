"""Zarr v3 shards, assembled directly: chunk bytes with crc32c, then the index with its crc32c.

Writing a whole shard ourselves is several times faster than through zarr-python and gives the
digest of the stored bytes on the way. Any Zarr v3 reader opens the result: the format is the
`sharding_indexed` codec of the Zarr specification with a `bytes` and a `crc32c` codec inside.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import xxhash
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.errors import ContainsArrayError

from bathyscope.stores.objects import Objects
from bathyscope.values import Json, ShardRecord

_CRC_BYTES = 4


@dataclass(frozen=True)
class ArraySpec:
    """Shape and layout of one array of rows."""

    name: str
    """Path below the store's root: a hook point, `tokens`, `values`."""
    row_shape: tuple[int, ...]
    """Shape of one row; () for a scalar."""
    dtype: str
    """NumPy dtype on disk: uint16 holds the bits of bfloat16."""
    logical_dtype: str
    """What the bits mean: `bfloat16`, `float32`, `uint32`."""
    chunk_rows: int
    """Rows of a chunk, the unit of reading and of checksums."""
    shard_rows: int
    """Rows of a shard, the unit of writing: a whole number of chunks."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.row_shape, dtype=np.int64))

    @property
    def shard_bytes(self) -> int:
        """Bytes of one stored shard: rows, checksums and index."""
        chunks = self.shard_rows // self.chunk_rows
        return self.shard_rows * self.row_bytes + chunks * (_CRC_BYTES + 16) + _CRC_BYTES

    def shard_key(self, segment: str, shard: int) -> str:
        """Object key of a shard: `<array>/<segment>/c.<shard>.0…`."""
        zeros = ".0" * len(self.row_shape)
        return f"{self.name}/{segment}/c.{shard}{zeros}"

    def to_dict(self) -> Json:
        """A JSON form that `from_dict` reads back."""
        return {**self.__dict__, "row_shape": list(self.row_shape)}

    @classmethod
    def from_dict(cls, data: Json) -> ArraySpec:
        """The spec that `to_dict` wrote."""
        return cls(**{**data, "row_shape": tuple(data["row_shape"])})


def create_array(objects: Objects, segment: str, spec: ArraySpec, *, capacity: int) -> None:
    """Write the array's metadata. Harmless when it is there: the content depends on the spec only.

    `capacity` is the number of rows that the segment can hold, padding included.
    """
    if objects.exists(f"{spec.name}/{segment}/zarr.json"):
        return
    # Another worker may create it at the same time.
    with suppress(ContainsArrayError):
        zarr.create_array(
            store=objects.zarr(),
            name=objects.key(f"{spec.name}/{segment}"),
            shape=(capacity, *spec.row_shape),
            dtype=spec.dtype,
            chunks=(spec.chunk_rows, *spec.row_shape),
            shards=(spec.shard_rows, *spec.row_shape),
            serializer=BytesCodec(endian=None if np.dtype(spec.dtype).itemsize == 1 else "little"),
            compressors=[Crc32cCodec()],
            filters=None,
            fill_value=0,
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes={"logical_dtype": spec.logical_dtype},
            config={"write_empty_chunks": True},
        )


def open_array(objects: Objects, segment: str, name: str) -> Any:
    """The array as zarr-python opens it, for reading."""
    return zarr.open_array(objects.zarr(), path=objects.key(f"{name}/{segment}"), mode="r")


def put_shard(
    objects: Objects, spec: ArraySpec, *, segment: str, shard: int, rows: npt.NDArray[Any]
) -> ShardRecord:
    """Pad rows to a whole shard, write it as one object and say what was written."""
    padded = _padded(rows, spec)
    stored = assemble(padded, spec.chunk_rows)
    key = spec.shard_key(segment, shard)
    data = memoryview(stored.data)
    objects.put(key, data)
    return ShardRecord(
        key=key,
        size_bytes=stored.nbytes,
        stored_digest=xxhash.xxh3_128_hexdigest(data),
        rows_digest=xxhash.xxh3_128_hexdigest(memoryview(padded.data)),
    )


def assemble(rows: npt.NDArray[Any], chunk_rows: int) -> npt.NDArray[np.uint8]:
    """The stored bytes of one shard: every chunk followed by its crc32c, then the index.

    The index holds (offset, length) of each chunk as little-endian uint64, and a crc32c.
    """
    raw = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8).reshape(-1)
    num_chunks = len(rows) // chunk_rows
    chunk_bytes = raw.nbytes // num_chunks
    stride = chunk_bytes + _CRC_BYTES
    out = np.empty(num_chunks * (stride + 16) + _CRC_BYTES, dtype=np.uint8)
    body = out[: num_chunks * stride].reshape(num_chunks, stride)
    for i in range(num_chunks):
        chunk = raw[i * chunk_bytes : (i + 1) * chunk_bytes]
        body[i, :chunk_bytes] = chunk
        body[i, chunk_bytes:] = _crc32c(chunk)
    index = np.empty((num_chunks, 2), dtype="<u8")
    index[:, 0] = np.arange(num_chunks, dtype=np.uint64) * stride
    index[:, 1] = stride
    index_bytes = index.view(np.uint8).reshape(-1)
    out[num_chunks * stride : -_CRC_BYTES] = index_bytes
    out[-_CRC_BYTES:] = _crc32c(index_bytes)
    return out


def _padded(rows: npt.NDArray[Any], spec: ArraySpec) -> npt.NDArray[Any]:
    rows = np.ascontiguousarray(rows, dtype=spec.dtype)
    assert rows.shape[1:] == spec.row_shape, (rows.shape, spec)
    missing = spec.shard_rows - len(rows)
    assert missing >= 0, (len(rows), spec)
    if missing == 0:
        return rows
    return np.concatenate([rows, np.zeros((missing, *spec.row_shape), dtype=spec.dtype)])


def _crc32c(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(google_crc32c.value(data).to_bytes(_CRC_BYTES, "little"), dtype=np.uint8)
