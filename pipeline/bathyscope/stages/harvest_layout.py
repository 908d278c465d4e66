"""How the rows of a harvest lie in units, chunks and shards, and what of it is in its identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bathyscope.config import Config
from bathyscope.models.shapes import ModelShape
from bathyscope.runs.corpus import Corpus
from bathyscope.stages.inputs import is_of_images
from bathyscope.stages.layout import Column, Layout, items_per_unit, lay_out
from bathyscope.stages.model import ModelFacts
from bathyscope.stores.codecs import NONE
from bathyscope.stores.shards import ArraySpec
from bathyscope.values import Json


def lay_out_rows(config: Config, shape: ModelShape, num_items: int) -> tuple[int, Layout]:
    """Items of a unit, and the arrays of the hook points.

    A hook point with a row for every position of the corpus has the segment's P, any other its own.
    """
    per_item = 1 if is_of_images(config) else config.data.sequence_length
    per_unit = items_per_unit(
        num_items,
        rows_per_item=max(per_item, *(own or 0 for own in shape.positions)),
        batch_items=config.hooks.batch_items,
        store=config.store,
    )
    names: dict[int | None, list[str]] = {}
    columns = {}
    for hook, width, own in zip(shape.hooks, shape.widths, shape.positions, strict=True):
        names.setdefault(own, []).append(hook.name)
        columns[hook.name] = Column(hook.name, (width,), "uint16", "bfloat16", config.store.codec)
    arrays: dict[str, list[ArraySpec]] = {name: [] for name in columns}
    rows_per_unit = per_unit * per_item
    for own, members in names.items():
        rows = per_unit * (own or per_item)
        layout = lay_out([columns[n] for n in members], unit_rows=rows, store=config.store)
        for spec in layout.arrays:
            arrays[spec.scales_of or spec.name].append(replace(spec, rows_per_item=own or 0))
        if own is None:
            rows_per_unit = layout.rows_per_unit
    return per_unit, Layout(tuple(a for name in columns for a in arrays[name]), rows_per_unit)


def ring_bytes(config: Config, arrays: Sequence[ArraySpec]) -> int:
    """Host memory for rows on their way: as set, or two shards of bfloat16 per hook point."""
    rows = [spec for spec in arrays if spec.scales_of is None]
    shards = sum(spec.shard_rows * 2 * int(np.prod(spec.row_shape)) for spec in rows)
    return config.hooks.ring_bytes or 2 * shards


def identity_of_some(config: Config, model: ModelFacts, corpus: Corpus) -> Json:
    """What identifies the result of some runs only: those without it keep their identity."""
    found: Json = {}
    if config.store.codec != NONE:
        found["codec"] = config.store.codec
    own = {
        hook.name: count
        for hook, count in zip(model.shape.hooks, model.shape.positions, strict=True)
        if count is not None
    }
    if own:
        found["rows_per_item"] = own
    if config.hooks.channels_last:
        found["channels_last"] = sorted(config.hooks.channels_last)
    if corpus.has_images:
        found["pixels"] = {"mean": config.model.image_mean, "std": config.model.image_std}
    return found
