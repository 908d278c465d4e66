"""How latents lie on disk: top-k lists in arrays [rows, k], others as CSR per unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.config import StoreConfig
from bathyscope.errors import StoreError
from bathyscope.runs.latents import COUNTS, INDICES, VALUES
from bathyscope.stages.layout import Column, Layout, lay_out
from bathyscope.stores.manifests import Segment
from bathyscope.stores.rows import to_disk
from bathyscope.values import Unit

_ROOM = 16
"""A unit has room for so many times k latents per row; what is not used costs nothing."""
_SHARDS_PER_UNIT = 8


def lay_out_latents(
    k: int, *, fixed: bool, num_latents: int, unit_items: int, per_item: int, store: StoreConfig
) -> Layout:
    """The arrays of latents whose units have `unit_items` items of `per_item` rows.

    With `fixed` every row has k slots, else any number.
    """
    unit_rows = unit_items * per_item
    if fixed:
        columns = [
            Column(VALUES, (k,), "uint16", "bfloat16"),
            Column(INDICES, (k,), "uint32", "uint32"),
        ]
        return lay_out(columns, unit_rows=unit_rows, store=store)
    counts = lay_out([Column(COUNTS, (), "uint32", "uint32")], unit_rows=unit_rows, store=store)
    own = min(_ROOM * k, num_latents) * per_item
    # Small shards: the last one that is written is padded, those after it are not there.
    small = max(4 * k * unit_rows // _SHARDS_PER_UNIT, 4)
    smaller = replace(
        store,
        shard_bytes=min(store.shard_bytes, max(small, store.chunk_bytes)),
        chunk_bytes=min(store.chunk_bytes, small),
    )
    columns = [
        Column(VALUES, (), "uint16", "bfloat16"),
        Column(INDICES, (), "uint32", "uint32"),
    ]
    entries = lay_out(columns, unit_rows=unit_items * own, store=smaller)
    ragged = (replace(spec, rows_per_item=own, ragged=True) for spec in entries.arrays)
    return Layout((*counts.arrays, *ragged), counts.rows_per_unit)


def latent_arrays(
    segment: Segment, unit: Unit, found: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, npt.NDArray[Any]]:
    """What is written for the latents of a unit: values and indices [rows, width] of its blocks.

    A value of 0 is no latent. Raises `StoreError` where there are more than a unit has room for.
    """
    if all(spec.name != COUNTS for spec in segment.arrays):
        values = torch.cat([values for values, _ in found]).to(torch.bfloat16)
        indices = torch.cat([indices for _, indices in found]).to(torch.uint32)
        return {VALUES: to_disk(values), INDICES: to_disk(indices)}
    used = [values > 0 for values, _ in found]
    counts = torch.cat([mask.sum(1) for mask in used])
    nnz, room = int(counts.sum()), segment.unit_rows(VALUES)
    if nnz > room:
        raise StoreError(
            f"Unit {unit.index} has {nnz:,} active latents in {len(counts):,} rows, which is more "
            f"than the {room:,} that it has room for: {_ROOM} times the L0 that was wanted. The "
            "dictionary is not as sparse as it should be: train it longer, or with a larger k."
        )
    values = torch.cat([f[0][mask] for f, mask in zip(found, used, strict=True)])
    values = values.to(torch.bfloat16)
    indices = torch.cat([f[1][mask] for f, mask in zip(found, used, strict=True)])
    return {
        COUNTS: counts.numpy().astype(np.uint32),
        VALUES: to_disk(values),
        INDICES: to_disk(indices.to(torch.uint32)),
    }
