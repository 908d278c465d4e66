"""The two tables of `features/<dictionary>`: one row per latent, one row per example."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

LATENTS_SCHEMA = pa.schema(
    [
        pa.field("latent", pa.int64()),
        pa.field("count", pa.int64(), metadata={"about": "rows on which it is active"}),
        pa.field("density", pa.float64(), metadata={"about": "count over rows that count"}),
        pa.field("mean", pa.float32(), metadata={"about": "mean activation where it is active"}),
        pa.field("max", pa.float32()),
        pa.field("histogram", pa.list_(pa.int64()), metadata={"about": "rows per bin"}),
        pa.field("promoted_ids", pa.list_(pa.int64())),
        pa.field("promoted_values", pa.list_(pa.float32())),
        pa.field("suppressed_ids", pa.list_(pa.int64())),
        pa.field("suppressed_values", pa.list_(pa.float32())),
    ]
)

EXAMPLES_SCHEMA = pa.schema(
    [
        pa.field("latent", pa.int64()),
        pa.field(
            "band", pa.int64(), metadata={"about": "0 top; n quantile band n, strongest first"}
        ),
        pa.field("rank", pa.int64(), metadata={"about": "place in its band"}),
        pa.field("item", pa.int64()),
        pa.field("position", pa.int64()),
        pa.field("value", pa.float32()),
        pa.field("split", pa.string()),
        pa.field("document", pa.int64(), metadata={"about": "number in the corpus' documents"}),
        pa.field("window_start", pa.int64(), metadata={"about": "position of the first token"}),
        pa.field("token_ids", pa.list_(pa.int64())),
        pa.field("activations", pa.list_(pa.float32())),
    ]
)


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    """The table in the bytes of a Parquet file."""
    return pq.read_table(io.BytesIO(data))
