import threading

import numpy as np
import pytest

from bathyscope.errors import LeaseLost, StoreError
from bathyscope.stores.shard_reader import ShardReader
from bathyscope.stores.shards import ArraySpec, assemble, crc32c, place, put_shard

SPEC = ArraySpec("resid", (3,), "uint16", "bfloat16", chunk_rows=2, shard_rows=8)
ROWS = np.arange(1, 49, dtype=np.uint16).reshape(16, 3)


def write(objects):
    for shard in range(2):
        put_shard(objects, SPEC, segment="seg", shard=shard, rows=ROWS[shard * 8 : shard * 8 + 8])
    return reader_of(objects)


def reader_of(objects, size=None):
    return ShardReader(objects, SPEC, "seg", lambda shard: size or SPEC.shard_bytes)


def read(reader, start, stop):
    out = np.empty((stop - start, 3), dtype=np.uint16)
    reader.read_into(start, out)
    return out


def with_index(body, entries):
    index = np.array(entries, dtype="<u8").tobytes()
    return body + index + crc32c(index)


def test_any_range_of_rows_is_read_across_chunks_and_shards(objects):
    reader = write(objects)

    for start in range(17):
        for stop in range(start, 17):
            np.testing.assert_array_equal(read(reader, start, stop), ROWS[start:stop])


def test_chunks_may_lie_in_any_order_and_apart(disk):
    write(disk)
    pieces = assemble(ROWS[:8], SPEC).pieces
    chunks = [bytes(pieces[2 * i]) + bytes(pieces[2 * i + 1]) for i in range(4)]
    body = chunks[2] + b"gap" + chunks[0] + chunks[1] + chunks[3]
    stored = with_index(body, [[19, 16], [35, 16], [0, 16], [51, 16]])
    disk.put("resid/seg/c.0.0", stored)
    reader = reader_of(disk, size=len(stored))

    np.testing.assert_array_equal(read(reader, 0, 8), ROWS[:8])
    np.testing.assert_array_equal(read(reader, 3, 7), ROWS[3:7])


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ([2**64 - 1, 2**64 - 1], "a chunk is missing in its index"),
        ([10**6, 16], "points behind its end"),
        ([2**63, 2**63], "points behind its end"),
        ([16, 3], "is too short"),
        ([16, 15], "has another length"),
    ],
)
def test_an_index_that_cannot_be_right_is_named(disk, entry, said):
    write(disk)
    body = disk.get("resid/seg/c.0.0")[: -SPEC.index_bytes]
    disk.put("resid/seg/c.0.0", with_index(body, [[0, 16], entry, [32, 16], [48, 16]]))

    with pytest.raises(StoreError, match=rf"shard resid/seg/c\.0\.0 is damaged.*{said}"):
        read(reader_of(disk), 0, 8)


@pytest.mark.parametrize("place", range(0, 132, 7))
def test_every_flipped_bit_that_matters_is_found(disk, place):
    write(disk)
    stored = bytearray(disk.get("resid/seg/c.0.0"))
    stored[place] ^= 4
    disk.put("resid/seg/c.0.0", bytes(stored))

    with pytest.raises(StoreError, match="another checksum"):
        read(reader_of(disk), 0, 8)


def test_a_shard_that_is_cut_or_gone_is_named(disk):
    write(disk)
    disk.put("resid/seg/c.0.0", disk.get("resid/seg/c.0.0")[:-1])
    with pytest.raises(StoreError, match="it has 131 bytes, its receipt says 132"):
        read(reader_of(disk), 0, 8)

    reader = reader_of(disk)
    read(reader, 8, 10)
    disk.put("resid/seg/c.1.0", b"short")
    with pytest.raises(StoreError, match="ends after 5 bytes"):
        read(reader, 8, 10)
    disk.delete("resid/seg/c.1.0")
    with pytest.raises(StoreError, match=r"c\.1\.0 .* has gone"):
        read(reader, 8, 10)


def test_threads_share_a_reader(disk):
    reader = write(disk)
    failed = []

    def work(seed):
        numbers = np.random.default_rng(seed)
        for _ in range(200):
            start, stop = np.sort(numbers.integers(0, 17, size=2))
            if not np.array_equal(read(reader, start, stop), ROWS[start:stop]):
                failed.append((start, stop))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def lost():
    raise LeaseLost("taken")


def test_a_shard_that_is_there_with_the_same_bytes_needs_no_lease(objects):
    write(objects)

    place(objects, "resid/seg/c.0.0", assemble(ROWS[:8], SPEC), check=lost, fsync=False)


def test_a_worker_that_lost_its_lease_leaves_other_bytes_alone(objects):
    write(objects)

    with pytest.raises(LeaseLost):
        place(objects, "resid/seg/c.0.0", assemble(ROWS[8:], SPEC), check=lost, fsync=False)

    np.testing.assert_array_equal(read(reader_of(objects), 0, 8), ROWS[:8])


def test_the_holder_of_the_lease_replaces_what_a_dead_worker_left(objects):
    write(objects)

    place(objects, "resid/seg/c.0.0", assemble(ROWS[8:], SPEC), check=lambda: None, fsync=True)

    np.testing.assert_array_equal(read(reader_of(objects), 0, 8), ROWS[8:])
