"""Zarr v3 shards, assembled directly: chunk bytes with crc32c, then the index with its crc32c.

Writing a whole shard ourselves is several times faster than through zarr-python and gives the
digest of the stored bytes on the way. Any Zarr v3 reader opens the result: the format is the
`sharding_indexed` codec of the Zarr specification with a `bytes` and a `crc32c` codec inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import xxhash
import zarr
from zarr.abc.buffer import Buffer as ZarrBuffer
from zarr.codecs import BytesCodec
from zarr.storage import MemoryStore

from bathyscope.stores.codecs import NONE, ZSTD, compress, zarr_compressors
from bathyscope.stores.files import Buffer
from bathyscope.stores.objects import Objects
from bathyscope.values import Json, ShardRecord

CRC_BYTES = 4


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
    codec: str = NONE
    """See `bathyscope.stores.codecs`."""
    scales_of: str | None = None
    """The array whose rows these scales belong to."""
    rows_per_item: int = 0
    """P of this array, where it is another one than the segment's."""
    ragged: bool = False
    """Whether a unit has any number of rows up to its capacity, as another array says: shards
    that would hold none of them are not written."""

    @property
    def chunks_per_shard(self) -> int:
        """Chunks of a shard."""
        return self.shard_rows // self.chunk_rows

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk after decoding."""
        return self.chunk_rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.row_shape, dtype=np.int64))

    @property
    def shard_bytes(self) -> int:
        """Bytes of one stored shard without compression: rows, checksums and index."""
        stored = self.shard_rows * self.row_bytes + self.chunks_per_shard * CRC_BYTES
        return stored + self.index_bytes

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the end of a shard, with its checksum."""
        return 16 * self.chunks_per_shard + CRC_BYTES

    def shard_key(self, segment: str, shard: int) -> str:
        """Object key of a shard: `<array>/<segment>/c.<shard>.0…`."""
        zeros = ".0" * len(self.row_shape)
        return f"{self.name}/{segment}/c.{shard}{zeros}"

    def to_dict(self) -> Json:
        """A JSON form that `from_dict` reads back."""
        record = {**self.__dict__, "row_shape": list(self.row_shape)}
        if not self.rows_per_item:
            # As it was written before arrays could have a P of their own.
            del record["rows_per_item"]
        if not self.ragged:
            del record["ragged"]
        return record

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
    written: dict[str, ZarrBuffer] = {}
    zarr.create_array(
        store=MemoryStore(written),
        name=objects.key(f"{spec.name}/{segment}"),
        shape=(capacity, *spec.row_shape),
        dtype=spec.dtype,
        chunks=(spec.chunk_rows, *spec.row_shape),
        shards=(spec.shard_rows, *spec.row_shape),
        serializer=BytesCodec(endian=None if np.dtype(spec.dtype).itemsize == 1 else "little"),
        compressors=zarr_compressors(spec.codec, spec.dtype),
        filters=None,
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes=_attributes(spec),
        config={"write_empty_chunks": True},
    )
    # Not by zarr: it takes a request for a group that broke off (409) for a group that is there.
    # The array comes last, so that whoever finds it finds its groups, also after a kill.
    root = objects.root
    for key in sorted(written, key=lambda key: key.count("/")):
        root.create(key, written[key].to_bytes())


def open_array(objects: Objects, segment: str, name: str) -> Any:
    """The array as zarr-python opens it, for reading."""
    return zarr.open_array(objects.zarr(), path=objects.key(f"{name}/{segment}"), mode="r")


def metadata_fault(objects: Objects, segment: str, spec: ArraySpec, *, capacity: int) -> str | None:
    """What other readers would find wrong with the array's metadata, or None."""
    try:
        array = open_array(objects, segment, spec.name)
    except FileNotFoundError:
        return "is not there"
    # Whatever zarr makes of a damaged file: it has no one error for it.
    except Exception as error:
        return f"cannot be opened: {type(error).__name__}: {error}"
    found = (array.shape, str(array.dtype), array.chunks, array.shards)
    rows = ((n, *spec.row_shape) for n in (capacity, spec.chunk_rows, spec.shard_rows))
    shape, chunks, shards = rows
    wanted = (shape, spec.dtype, chunks, shards)
    return None if found == wanted else f"says {found}; the manifest says {wanted}"


@dataclass(frozen=True)
class Assembled:
    """The bytes of one shard, in pieces that share memory with its rows."""

    pieces: list[Buffer]
    size_bytes: int
    stored_digest: str
    rows_digest: str


def put_shard(
    objects: Objects,
    spec: ArraySpec,
    *,
    segment: str,
    shard: int,
    rows: npt.NDArray[Any],
    check: Callable[[], None] = lambda: None,
    fsync: bool = False,
) -> ShardRecord:
    """Pad rows to a whole shard, write it as one object and say what was written."""
    key = spec.shard_key(segment, shard)
    assembled = assemble(rows, spec)
    place(objects, key, assembled, check=check, fsync=fsync)
    return record_of(key, assembled)


def record_of(key: str, shard: Assembled) -> ShardRecord:
    """What a receipt says of a shard."""
    return ShardRecord(key, shard.size_bytes, shard.stored_digest, shard.rows_digest)


def place(
    objects: Objects, key: str, shard: Assembled, *, check: Callable[[], None], fsync: bool
) -> None:
    """Create the object, or replace one with other bytes after another look at the lease.

    A worker that was given up may wake with other bytes than those of the worker that did its
    unit again, when the two ran on different devices. It finds the key taken and its lease lost.
    """
    if objects.create(key, shard.pieces, fsync=fsync):
        return
    if xxhash.xxh3_128_hexdigest(objects.get(key)) != shard.stored_digest:
        check()
        objects.put(key, shard.pieces, fsync=fsync)


def assemble(rows: npt.NDArray[Any], spec: ArraySpec) -> Assembled:
    """The stored bytes of one shard: every chunk followed by its crc32c, then the index.

    The index holds (offset, length) of each chunk as little-endian uint64, and a crc32c. Rows
    that are missing at the end are zeros. Nothing is copied but a chunk that needs padding.
    """
    rows = np.ascontiguousarray(rows, dtype=spec.dtype)
    assert rows.shape[1:] == spec.row_shape, (rows.shape, spec)
    assert len(rows) <= spec.shard_rows, (len(rows), spec)
    pieces: list[Buffer] = []
    stored, decoded = xxhash.xxh3_128(), xxhash.xxh3_128()
    index = np.empty((spec.chunks_per_shard, 2), dtype="<u8")
    offset = 0
    for number in range(spec.chunks_per_shard):
        chunk = _chunk(rows, number, spec)
        decoded.update(as_bytes(chunk))
        body = compress(chunk) if spec.codec == ZSTD else as_bytes(chunk)
        # All that is asked of a chunk, while it is in the cache.
        pieces += _hashed([body, crc32c(body)], stored)
        index[number] = offset, len(body) + CRC_BYTES
        offset += len(body) + CRC_BYTES
    pieces += _hashed([as_bytes(index), crc32c(as_bytes(index))], stored)
    size = offset + spec.index_bytes
    return Assembled(pieces, size, stored.hexdigest(), decoded.hexdigest())


def _hashed(pieces: list[Buffer], digest: xxhash.xxh3_128) -> list[Buffer]:
    for piece in pieces:
        digest.update(piece)
    return pieces


def crc32c(data: Buffer) -> bytes:
    """The checksum of a chunk or an index as it is stored."""
    # The extension takes bytes and NumPy arrays, and no memoryview.
    found: int = google_crc32c.value(np.frombuffer(data, dtype=np.uint8))
    return found.to_bytes(CRC_BYTES, "little")


def _chunk(rows: npt.NDArray[Any], number: int, spec: ArraySpec) -> npt.NDArray[Any]:
    found = rows[number * spec.chunk_rows : (number + 1) * spec.chunk_rows]
    if len(found) == spec.chunk_rows:
        return found
    missing = np.zeros((spec.chunk_rows - len(found), *spec.row_shape), dtype=spec.dtype)
    return np.concatenate([found, missing])


def as_bytes(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array, sharing its memory."""
    data: Any = array.reshape(-1).view(np.uint8)
    return memoryview(data)


def _attributes(spec: ArraySpec) -> Json:
    attributes: Json = {"logical_dtype": spec.logical_dtype}
    if spec.codec != NONE:
        attributes["codec"] = spec.codec
    if spec.scales_of is not None:
        attributes["scales_of"] = spec.scales_of
    return attributes
