"""The tables of a pack of receipts: what each column holds, and how sums become bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bathyscope.values import Moments, Receipt, ShardRecord

Totals = dict[tuple[str, str, int], Moments]
"""(split, array, mask class) -> sums."""

# A row group of sums stays near 50 MB with four mask classes of 4096 dimensions.
_UNITS_PER_ROW_GROUP = 64

_SHARD = pa.struct(
    [
        ("key", pa.string()),
        ("size_bytes", pa.int64()),
        ("stored_digest", pa.string()),
        ("rows_digest", pa.string()),
    ]
)
RECEIPTS = pa.schema(
    [
        ("unit", pa.int64()),
        ("term", pa.int64()),
        ("valid", pa.int64()),
        ("stored_bytes", pa.int64()),
        ("shards", pa.list_(_SHARD)),
        ("figures", pa.string()),
        ("writer", pa.string()),
    ]
)
_SUMS = [("n", pa.int64()), ("sum", pa.binary()), ("sum_sq", pa.binary())]
_MOMENTS = pa.schema(
    [("unit", pa.int64()), ("array", pa.string()), ("mask_class", pa.int64()), *_SUMS]
)
_TOTALS = pa.schema(
    [("split", pa.string()), ("array", pa.string()), ("mask_class", pa.int64()), *_SUMS]
)


def add_totals(totals: Totals, split: str, receipt: Receipt) -> None:
    """Add the sums of a receipt to those of its split."""
    for array, classes in sorted(receipt.moments.items()):
        for mask_class, moments in sorted(classes.items()):
            key = (split, array, mask_class)
            totals[key] = totals[key] + moments if key in totals else moments


def tables(
    receipts: Iterable[Receipt], splits: Mapping[int, str]
) -> tuple[pa.Table, bytes, pa.Table]:
    """The receipts, their sums as a Parquet file, and the totals. Holds few sums at a time."""
    rows: list[dict[str, Any]] = []
    totals: Totals = {}
    out = io.BytesIO()
    # Sums are dense float64: compression would cost much and save little.
    with pq.ParquetWriter(out, _MOMENTS, compression="none", write_page_checksum=True) as writer:
        for group in _groups(receipts, _UNITS_PER_ROW_GROUP):
            rows += map(_row, group)
            sums = [row for receipt in group for row in _moment_rows(receipt)]
            writer.write_table(pa.Table.from_pylist(sums, _MOMENTS), row_group_size=2**30)
            for receipt in group:
                add_totals(totals, splits[receipt.unit], receipt)
    total_rows = [
        {"split": split, "array": array, "mask_class": mask_class, **_sums(moments)}
        for (split, array, mask_class), moments in sorted(totals.items(), key=lambda item: item[0])
    ]
    table = pa.Table.from_pylist(rows, RECEIPTS)
    return table, out.getvalue(), pa.Table.from_pylist(total_rows, _TOTALS)


def _row(receipt: Receipt) -> dict[str, Any]:
    return {
        "unit": receipt.unit,
        "term": receipt.term,
        "valid": receipt.valid,
        "stored_bytes": sum(s.size_bytes for s in receipt.shards),
        "shards": [vars(s) for s in receipt.shards],
        "figures": json.dumps(dict(receipt.figures)),
        "writer": json.dumps(dict(receipt.writer)),
    }


def from_row(row: Mapping[str, Any], moments: Mapping[str, Mapping[int, Moments]]) -> Receipt:
    """The receipt of a row, with its sums."""
    return Receipt(
        unit=row["unit"],
        term=row["term"],
        valid=row["valid"],
        shards=tuple(ShardRecord(**s) for s in row["shards"]),
        moments=moments,
        figures=json.loads(row["figures"]),
        writer=json.loads(row["writer"]),
    )


def _moment_rows(receipt: Receipt) -> Iterator[dict[str, Any]]:
    for array, classes in sorted(receipt.moments.items()):
        for mask_class, moments in sorted(classes.items()):
            yield {
                "unit": receipt.unit,
                "array": array,
                "mask_class": mask_class,
                **_sums(moments),
            }


def _sums(moments: Moments) -> dict[str, Any]:
    as_bytes = {
        name: np.ascontiguousarray(getattr(moments, name), dtype="<f8").tobytes()
        for name in ("sum", "sum_sq")
    }
    return {"n": moments.n, **as_bytes}


def to_moments(row: Mapping[str, Any]) -> Moments:
    """The sums in a row."""
    sums = [np.frombuffer(row[name], dtype="<f8").copy() for name in ("sum", "sum_sq")]
    return Moments(row["n"], *sums)


def _groups(receipts: Iterable[Receipt], size: int) -> Iterator[list[Receipt]]:
    group: list[Receipt] = []
    for receipt in receipts:
        group.append(receipt)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file, with a checksum of each page."""
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", write_page_checksum=True)
    return out.getvalue()
