import pytest

from bathyscope.config import StoreConfig
from bathyscope.stages.layout import Column, items_per_unit, lay_out

# 8 and 32 bytes a row.
NARROW = Column("narrow", (4,), "uint16", "bfloat16")
WIDE = Column("wide", (8,), "uint32", "uint32")


def store_of(chunk_bytes=64, shard_bytes=10**6):
    return StoreConfig(chunk_bytes=chunk_bytes, shard_bytes=shard_bytes)


def shapes(layout):
    return [(a.chunk_rows, a.shard_rows) for a in layout.arrays]


def test_chunks_hold_a_power_of_two_of_rows():
    # 8 rows of 8 bytes fill a chunk of 64 bytes; 20 rows fill 3 chunks, 24 rows.
    layout = lay_out([NARROW], unit_rows=20, store=store_of())

    assert layout.rows_per_unit == 24
    assert shapes(layout) == [(8, 24)]
    assert lay_out([NARROW], unit_rows=20, store=store_of(chunk_bytes=127)) == layout


def test_arrays_of_other_widths_fill_the_same_unit():
    # 2 rows of 32 bytes in a chunk; the unit is padded for the array with the longer chunks.
    layout = lay_out([NARROW, WIDE], unit_rows=20, store=store_of())

    assert layout.rows_per_unit == 24
    assert shapes(layout) == [(8, 24), (2, 24)]
    assert [a.name for a in layout.arrays] == ["narrow", "wide"]
    assert [a.logical_dtype for a in layout.arrays] == ["bfloat16", "uint32"]


def test_shards_are_no_larger_than_asked_and_divide_the_unit():
    # 2 chunks a shard: 3 chunks of `narrow` in 2 shards, 10 of `wide` in 8. Both units 32 rows.
    layout = lay_out([NARROW, WIDE], unit_rows=20, store=store_of(shard_bytes=128))

    assert layout.rows_per_unit == 32
    assert shapes(layout) == [(8, 16), (2, 4)]


@pytest.mark.parametrize(("unit_rows", "padded"), [(8, 8), (9, 16), (64, 64), (1, 1), (3, 4)])
def test_units_are_padded_to_whole_chunks_and_no_further(unit_rows, padded):
    assert lay_out([NARROW], unit_rows=unit_rows, store=store_of()).rows_per_unit == padded


def test_a_prime_number_of_chunks_does_not_make_a_shard_of_each():
    # 13 chunks, 4 a shard: 4 shards, not 13.
    layout = lay_out([NARROW], unit_rows=13 * 8, store=store_of(shard_bytes=4 * 64))

    assert layout.rows_per_unit == 16 * 8
    assert shapes(layout) == [(8, 32)]


def test_a_row_that_is_larger_than_a_chunk_or_a_shard_is_one_of_its_own():
    layout = lay_out([WIDE], unit_rows=3, store=store_of(chunk_bytes=16, shard_bytes=16))

    assert layout.rows_per_unit == 4
    assert shapes(layout) == [(1, 1)]


def test_a_chunk_is_no_longer_than_the_unit():
    flag = Column("flag", (), "uint8", "uint8")

    assert shapes(lay_out([flag], unit_rows=20, store=store_of())) == [(16, 32)]
    assert shapes(lay_out([flag], unit_rows=1, store=store_of())) == [(1, 1)]


def test_the_real_sizes():
    # d 576 in bfloat16: 1024 rows are 1.2 MB of the 2 MiB; 196 chunks of them are 231 MB.
    resid = Column("resid_post.9", (576,), "uint16", "bfloat16")
    layout = lay_out([resid], unit_rows=200_000, store=StoreConfig())
    assert shapes(layout) == [(1024, 200_704)]

    # d 4096: 256 rows are 2 MiB; 782 chunks make 8 shards of 98 chunks, 206 MB each.
    resid = Column("resid_post.9", (4096,), "uint16", "bfloat16")
    layout = lay_out([resid], unit_rows=200_000, store=StoreConfig())
    assert shapes(layout) == [(256, 98 * 256)]
    assert layout.rows_per_unit == 8 * 98 * 256


@pytest.mark.parametrize("unit_rows", [1, 7, 100, 1000, 4096, 99_991])
@pytest.mark.parametrize("shard_bytes", [64, 1000, 10**5])
def test_what_every_layout_promises(unit_rows, shard_bytes):
    columns = [NARROW, WIDE, Column("flag", (), "uint8", "uint8")]
    layout = lay_out(columns, unit_rows=unit_rows, store=store_of(64, shard_bytes))

    assert layout.rows_per_unit >= unit_rows
    for array in layout.arrays:
        assert array.chunk_rows & (array.chunk_rows - 1) == 0
        assert array.shard_rows % array.chunk_rows == 0
        assert layout.rows_per_unit % array.shard_rows == 0
        shard_bytes_made = array.shard_rows * array.row_bytes
        assert shard_bytes_made <= max(shard_bytes, array.chunk_rows * array.row_bytes)
    step = max(a.chunk_rows * (layout.rows_per_unit // a.shard_rows) for a in layout.arrays)
    assert layout.rows_per_unit - unit_rows < step


@pytest.mark.parametrize(
    ("store", "num_items", "rows_per_item", "batch_items", "items"),
    [
        (StoreConfig(items_per_unit=10), 10**6, 1, 8, 16),  # whole batches
        (StoreConfig(items_per_unit=16), 10**6, 1, 8, 16),
        (StoreConfig(items_per_unit=16), 3, 1, 8, 16),  # as asked, also for a small corpus
        (StoreConfig(unit_tokens=1000), 10**6, 100, 4, 12),  # 10 items of 100 tokens
        (StoreConfig(unit_tokens=1000), 10**6, 3000, 4, 4),  # an item is never cut
        (StoreConfig(unit_tokens=10**6, min_units=8), 64, 100, 4, 8),  # 64 items in 8 units
        (StoreConfig(unit_tokens=10**6, min_units=8), 65, 100, 4, 12),  # 9 items, whole batches
        (StoreConfig(unit_tokens=10**6, min_units=8), 5, 100, 8, 8),  # no less than a batch
        (StoreConfig(), 0, 256, 8, 8),
        (StoreConfig(), 10**6, 256, 8, 784),  # 200,000 // 256 = 781
    ],
)
def test_items_of_a_unit(store, num_items, rows_per_item, batch_items, items):
    found = items_per_unit(
        num_items, rows_per_item=rows_per_item, batch_items=batch_items, store=store
    )

    assert found == items
