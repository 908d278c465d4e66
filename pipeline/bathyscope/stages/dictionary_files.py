"""The files of a trained dictionary: put aside first, then in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import xxhash

from bathyscope.dictionaries.files import to_files
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.runs.tables import to_parquet
from bathyscope.runs.work import Begun, finish
from bathyscope.stages.hook_columns import HookColumns
from bathyscope.stages.masks import PROTOCOL
from bathyscope.stages.trained import Trained, finished
from bathyscope.stores.objects import Objects
from bathyscope.training.loop import Point
from bathyscope.values import Json, Receipt

_KEYS = {
    "config.json": "config_key",
    "model.safetensors": "weights_key",
    "curve.parquet": "curve_key",
}


def put_aside(
    trained: Trained,
    columns: HookColumns,
    *,
    order_seed: int,
    objects: Objects,
    segment: str,
    beside: Mapping[str, Sequence[float]] | None = None,
) -> Json:
    """Finish a dictionary and write its files beside those that readers find; their facts.

    Readers of a dictionary that is being replaced still find the old one. `beside` are more
    columns of the curve.
    """
    dictionary = finished(trained, order_seed)
    scales, _ = columns.scales_and_mean()
    facts: Json = {
        "scales": {
            rows.name: float(scales[first])
            for rows, first in zip(columns.all, columns.firsts, strict=True)
        },
        "positions": PROTOCOL,
        "rows": trained.batches.num_rows,
        "calibration_rows": trained.batches.num_aside,
    }
    files = to_files(dictionary, facts)
    files["curve.parquet"] = _curve_table(trained.curve, beside or {})
    figures = {**_sizes(dictionary), **facts}
    for name, data in files.items():
        objects.put(f"parts/{segment}/{name}", data)
        figures[_KEYS[name]] = name
        figures[f"{_KEYS[name].removesuffix('_key')}_digest"] = xxhash.xxh3_128_hexdigest(data)
    last = [point.figures.fvu for point in trained.curve[-5:]]
    figures["train_fvu_last_batches"] = float(np.mean(last))
    return figures


def publish(begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Copy the files that lie aside to where readers find them, and publish the dictionary.

    The manifest holds their digests, so a reader that comes in between notices. What it needs no
    more, files aside and checkpoints, is removed.
    """
    facts, objects, segment = dict(receipts[0].figures), begun.objects, begun.work.segment.name
    for key in _KEYS.values():
        objects.put(facts[key], objects.get(f"parts/{segment}/{facts[key]}"))
    finish(begun, facts)
    objects.delete_folder(f"parts/{segment}")
    objects.delete_folder("checkpoints")
    objects.sweep("checkpoints")
    return facts


def _sizes(dictionary: AnyDictionary) -> Json:
    return {
        "num_latents": dictionary.num_latents,
        "k": dictionary.k,
        "activation": dictionary.parts[0].activation.name,
    }


def _curve_table(curve: list[Point], beside: Mapping[str, Sequence[float]]) -> bytes:
    table = pa.Table.from_pylist([point.to_json() for point in curve])
    for name, values in beside.items():
        table = table.append_column(name, pa.array(values, pa.float64()))
    return to_parquet(table)
