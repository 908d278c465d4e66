import google_crc32c
import numpy as np
import pytest
import xxhash
import zarr

from bathyscope.stores.objects import Objects
from bathyscope.stores.shards import ArraySpec, assemble, create_array, open_array, put_shard

RNG = np.random.default_rng(0)


def spec_of(row_shape, dtype, *, chunk_rows, shard_rows):
    return ArraySpec("resid_post.9", row_shape, dtype, dtype, chunk_rows, shard_rows)


@pytest.mark.parametrize(
    ("row_shape", "dtype", "chunk_rows", "shard_rows"),
    [
        ((5,), "uint16", 4, 12),
        ((), "uint32", 8, 56),
        ((16,), "uint8", 2, 10),
        ((3,), "uint16", 8, 8),
        ((2, 3), "uint16", 2, 6),
        ((7,), "float32", 1, 3),
        ((1,), "uint8", 1, 1),
    ],
    ids=["bf16-3-chunks", "scalar-7", "bytes-5", "one-chunk", "matrix", "float32", "one-byte"],
)
def test_plain_zarr_reads_back_what_was_written(objects, row_shape, dtype, chunk_rows, shard_rows):
    spec = spec_of(row_shape, dtype, chunk_rows=chunk_rows, shard_rows=shard_rows)
    rows = RNG.integers(0, 255, size=(2 * shard_rows, *row_shape)).astype(dtype)
    view = objects.at("activations.zarr")
    create_array(view, "seg", spec, capacity=2 * shard_rows)
    for shard in range(2):
        part = rows[shard * shard_rows : (shard + 1) * shard_rows]
        put_shard(view, spec, segment="seg", shard=shard, rows=part)

    array = zarr.open_array(objects.zarr(), path="activations.zarr/resid_post.9/seg", mode="r")

    np.testing.assert_array_equal(array[:], rows)
    assert array.dtype == np.dtype(dtype)
    assert array.chunks == (chunk_rows, *row_shape)
    assert array.shards == (shard_rows, *row_shape)
    assert array.attrs["logical_dtype"] == dtype


def test_the_same_array_written_by_zarr_has_the_same_bytes(disk):
    spec = spec_of((5,), "uint16", chunk_rows=4, shard_rows=12)
    rows = RNG.integers(1, 2**16, size=(12, 5), dtype=np.uint16)
    create_array(disk, "ours", spec, capacity=12)
    create_array(disk, "theirs", spec, capacity=12)

    put_shard(disk, spec, segment="ours", shard=0, rows=rows)
    theirs = zarr.open_array(disk.zarr(), path="resid_post.9/theirs", mode="r+")
    theirs[:] = rows

    assert disk.get("resid_post.9/theirs/c.0.0") == disk.get("resid_post.9/ours/c.0.0")


def test_the_bytes_of_a_shard_by_hand():
    spec = spec_of((1,), "uint8", chunk_rows=2, shard_rows=4)
    shard = assemble(np.array([[1], [2], [3], [4]], dtype=np.uint8), spec)
    stored = b"".join(shard.pieces)

    def crc(data):
        return google_crc32c.value(data).to_bytes(4, "little")

    def words(*numbers):
        return b"".join(n.to_bytes(8, "little") for n in numbers)

    index = words(0, 6, 6, 6)
    wanted = b"\x01\x02" + crc(b"\x01\x02") + b"\x03\x04" + crc(b"\x03\x04") + index + crc(index)
    assert stored == wanted
    assert shard.size_bytes == len(wanted) == spec.shard_bytes
    # The check value of CRC-32C that RFC 3720 and the catalogue of CRCs give.
    assert crc(b"123456789") == (0xE3069283).to_bytes(4, "little")


def test_a_last_shard_is_padded_with_zero_rows(objects):
    spec = spec_of((2,), "uint16", chunk_rows=2, shard_rows=6)
    create_array(objects, "seg", spec, capacity=6)
    rows = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.uint16)

    record = put_shard(objects, spec, segment="seg", shard=0, rows=rows)

    padded = np.zeros((6, 2), dtype=np.uint16)
    padded[:3] = rows
    np.testing.assert_array_equal(open_array(objects, "seg", "resid_post.9")[:], padded)
    assert record.size_bytes == spec.shard_bytes
    assert record.rows_digest == xxhash.xxh3_128_hexdigest(padded.tobytes())


def test_chunks_of_zeros_are_stored(objects):
    spec = spec_of((2,), "uint16", chunk_rows=2, shard_rows=6)
    create_array(objects, "seg", spec, capacity=6)

    record = put_shard(
        objects, spec, segment="seg", shard=0, rows=np.zeros((6, 2), dtype=np.uint16)
    )

    assert objects.size(record.key) == record.size_bytes == spec.shard_bytes
    index = np.frombuffer(objects.get(record.key)[-52:-4], dtype="<u8").reshape(3, 2)
    np.testing.assert_array_equal(index, [[0, 12], [12, 12], [24, 12]])


def test_a_shard_may_hold_no_row_at_all(objects):
    spec = spec_of((), "uint32", chunk_rows=2, shard_rows=4)
    create_array(objects, "seg", spec, capacity=4)
    put_shard(objects, spec, segment="seg", shard=0, rows=np.zeros(0, dtype=np.uint32))

    np.testing.assert_array_equal(open_array(objects, "seg", "resid_post.9")[:], [0, 0, 0, 0])


def test_the_record_describes_the_stored_object(objects):
    spec = spec_of((3,), "uint16", chunk_rows=2, shard_rows=4)
    rows = np.arange(12, dtype=np.uint16).reshape(4, 3)

    record = put_shard(objects, spec, segment="seg", shard=7, rows=rows)

    stored = objects.get("resid_post.9/seg/c.7.0")
    assert record.key == "resid_post.9/seg/c.7.0"
    # 4 rows of 6 bytes, 2 chunks with 4 bytes of checksum and 16 of index, 4 for the index.
    assert record.size_bytes == len(stored) == spec.shard_bytes == 24 + 2 * 20 + 4
    assert record.stored_digest == xxhash.xxh3_128_hexdigest(stored)
    assert record.rows_digest == xxhash.xxh3_128_hexdigest(rows.tobytes())


def test_rows_digest_does_not_depend_on_the_chunks(objects):
    rows = np.arange(12, dtype=np.uint16).reshape(4, 3)
    records = [
        put_shard(
            objects,
            spec_of((3,), "uint16", chunk_rows=chunk, shard_rows=4),
            segment=f"seg{chunk}",
            shard=0,
            rows=rows,
        )
        for chunk in (1, 4)
    ]

    assert records[0].rows_digest == records[1].rows_digest
    assert records[0].stored_digest != records[1].stored_digest


def test_rows_in_another_memory_order_give_the_same_object(objects):
    spec = spec_of((3,), "uint16", chunk_rows=2, shard_rows=4)
    rows = np.arange(12, dtype=np.uint16).reshape(4, 3)

    plain = put_shard(objects, spec, segment="a", shard=0, rows=rows)
    turned = put_shard(objects, spec, segment="b", shard=0, rows=np.asfortranarray(rows))
    sliced = put_shard(objects, spec, segment="c", shard=0, rows=np.repeat(rows, 2, axis=0)[::2])

    assert plain.stored_digest == turned.stored_digest == sliced.stored_digest


@pytest.mark.parametrize(
    "place", [0, 11, 13, 30, -1, -40], ids=["row", "row-end", "crc", "middle", "index-crc", "index"]
)
def test_one_flipped_bit_is_found(disk, place):
    spec = spec_of((3,), "uint16", chunk_rows=2, shard_rows=4)
    create_array(disk, "seg", spec, capacity=4)
    rows = RNG.integers(1, 2**16, size=(4, 3), dtype=np.uint16)
    record = put_shard(disk, spec, segment="seg", shard=0, rows=rows)
    damaged = bytearray(disk.get(record.key))
    damaged[place] ^= 1
    disk.put(record.key, bytes(damaged))

    with pytest.raises(ValueError, match="checksum"):
        open_array(disk, "seg", "resid_post.9")[:]


def test_damage_in_one_chunk_leaves_the_others_readable(disk):
    spec = spec_of((3,), "uint16", chunk_rows=2, shard_rows=4)
    create_array(disk, "seg", spec, capacity=4)
    rows = np.arange(12, dtype=np.uint16).reshape(4, 3)
    record = put_shard(disk, spec, segment="seg", shard=0, rows=rows)
    damaged = bytearray(disk.get(record.key))
    damaged[0] ^= 1
    disk.put(record.key, bytes(damaged))

    np.testing.assert_array_equal(open_array(disk, "seg", "resid_post.9")[2:4], rows[2:])


def test_keys_have_a_zero_for_every_axis_of_a_row():
    assert spec_of((), "uint32", chunk_rows=1, shard_rows=1).shard_key("s", 3).endswith("/s/c.3")
    assert spec_of((5,), "uint16", chunk_rows=1, shard_rows=1).shard_key("s", 0).endswith("c.0.0")
    assert spec_of((5, 2), "uint8", chunk_rows=1, shard_rows=1).shard_key("s", 12) == (
        "resid_post.9/s/c.12.0.0"
    )


def test_sizes_of_a_row():
    assert spec_of((), "uint32", chunk_rows=1, shard_rows=1).row_bytes == 4
    assert spec_of((576,), "uint16", chunk_rows=1, shard_rows=1).row_bytes == 1152
    assert spec_of((2, 3), "uint8", chunk_rows=1, shard_rows=1).row_bytes == 6


def test_a_spec_survives_json():
    spec = spec_of((5, 2), "uint8", chunk_rows=1, shard_rows=3)

    assert ArraySpec.from_dict(spec.to_dict()) == spec


def test_an_array_is_created_once_and_again_without_harm(objects):
    spec = spec_of((3,), "uint16", chunk_rows=2, shard_rows=4)
    create_array(objects, "seg", spec, capacity=8)
    before = objects.get("resid_post.9/seg/zarr.json")
    create_array(objects, "seg", spec, capacity=8)

    assert objects.get("resid_post.9/seg/zarr.json") == before
    assert open_array(objects, "seg", "resid_post.9").shape == (8, 3)


def test_two_workers_may_create_an_array_at_the_same_time(disk, monkeypatch):
    spec = spec_of((3,), "uint16", chunk_rows=2, shard_rows=4)
    create_array(disk, "seg", spec, capacity=8)

    # The other worker wrote it after this one had looked.
    monkeypatch.setattr(Objects, "exists", lambda self, key: False)
    create_array(disk, "seg", spec, capacity=8)

    assert open_array(disk, "seg", "resid_post.9").shape == (8, 3)
