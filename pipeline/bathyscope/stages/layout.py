"""How rows are cut into chunks, shards and units. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bathyscope.config import StoreConfig
from bathyscope.stores.codecs import NONE, is_per_row, stored_dtype
from bathyscope.stores.rows import scales_name
from bathyscope.stores.shards import ArraySpec


class Column(NamedTuple):
    """An array before it is laid out."""

    name: str
    row_shape: tuple[int, ...]
    dtype: str
    logical_dtype: str
    codec: str = NONE


class Layout(NamedTuple):
    """Arrays of one segment whose shards fill the same units."""

    arrays: tuple[ArraySpec, ...]
    rows_per_unit: int


def items_per_unit(
    num_items: int, *, rows_per_item: int, batch_items: int, store: StoreConfig
) -> int:
    """Items of a unit: near the wanted size, at least `min_units` units, whole batches."""
    wanted = store.items_per_unit or max(store.unit_tokens // rows_per_item, 1)
    if not store.items_per_unit:
        wanted = min(wanted, -(-num_items // store.min_units))
    return max(-(-wanted // batch_items) * batch_items, batch_items)


def lay_out(columns: Sequence[Column], *, unit_rows: int, store: StoreConfig) -> Layout:
    """Chunks near `chunk_bytes` (a power of two of rows), and a power of two of shards per unit.

    A unit is padded to whole shards of every array. Powers of two keep the padding small where
    arrays of several widths share a unit.
    """
    bare = [_array(column, chunk_rows=1, shard_rows=1) for column in columns]
    chunk_rows = [_chunk_rows(b.row_bytes, unit_rows, store.chunk_bytes) for b in bare]
    padded, reached = unit_rows, -1
    # Padding for one array may ask for another shard of the next one.
    while padded != reached:
        reached = padded
        shards = [
            _num_shards(-(-padded // rows), rows * b.row_bytes, store.shard_bytes)
            for b, rows in zip(bare, chunk_rows, strict=True)
        ]
        step = max(rows * count for rows, count in zip(chunk_rows, shards, strict=True))
        padded = -(-unit_rows // step) * step
    arrays: list[ArraySpec] = []
    for column, rows, count in zip(columns, chunk_rows, shards, strict=True):
        arrays.append(_array(column, chunk_rows=rows, shard_rows=padded // count))
        if is_per_row(column.codec):
            arrays.append(_scales(arrays[-1]))
    return Layout(tuple(arrays), padded)


def _array(column: Column, *, chunk_rows: int, shard_rows: int) -> ArraySpec:
    return ArraySpec(
        column.name,
        column.row_shape,
        stored_dtype(column.codec, column.dtype),
        column.logical_dtype,
        chunk_rows,
        shard_rows,
        column.codec,
    )


def _scales(array: ArraySpec) -> ArraySpec:
    """The companion of an array with a scale per row, cut at the same rows."""
    name = scales_name(array.name)
    rows = (array.chunk_rows, array.shard_rows)
    return ArraySpec(name, (), "float32", "float32", *rows, scales_of=array.name)


def _chunk_rows(row_bytes: int, unit_rows: int, chunk_bytes: int) -> int:
    rows = 1
    while 2 * rows * row_bytes <= chunk_bytes and 2 * rows <= unit_rows:
        rows *= 2
    return rows


def _num_shards(chunks: int, chunk_bytes: int, shard_bytes: int) -> int:
    most = max(shard_bytes // chunk_bytes, 1)
    shards = 1
    while shards * most < chunks:
        shards *= 2
    return shards
