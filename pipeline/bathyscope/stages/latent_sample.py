"""A sample of latents that is kept when the rest is not: those of whole items, as a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bathyscope.values import Unit

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("item", pa.int64()),
        pa.field("position", pa.int64()),
        pa.field("latents", pa.list_(pa.uint32())),
        pa.field("values", pa.list_(pa.float32())),
    ]
)


def drawn_items(unit: Unit, share: float, seed: int) -> npt.NDArray[np.int64] | None:
    """Items of a unit that are kept, the same whoever does the unit; None where none ever is."""
    if not share:
        return None
    draws = np.random.default_rng([seed, unit.index])
    return unit.start + np.flatnonzero(draws.random(unit.num_items) < share)


def sampled(
    values: npt.NDArray[Any],
    indices: npt.NDArray[Any],
    places: npt.NDArray[np.int64],
    drawn: npt.NDArray[np.int64],
    per_item: int,
) -> pa.Table:
    """The active latents of the rows of items that were drawn.

    `values` and `indices` are [rows, k], 0 is padding; `places` are item * `per_item` + position.
    """
    items, positions = np.divmod(places, per_item)
    inside = np.isin(items, drawn)
    values, indices = values[inside], indices[inside]
    used = values > 0
    columns = {
        "item": items[inside],
        "position": positions[inside],
        "latents": [i[u].astype(np.uint32) for i, u in zip(indices, used, strict=True)],
        "values": [v[u] for v, u in zip(values, used, strict=True)],
    }
    return pa.table(columns, schema=SAMPLE_SCHEMA)
