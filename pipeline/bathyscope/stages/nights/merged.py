"""Statistics and strongest examples of every latent over all slices that a checkpoint has read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bathyscope.config import Config
from bathyscope.runs.run import FEATURES
from bathyscope.runs.tables import from_parquet, to_parquet
from bathyscope.stages.nights.comparison import run_of
from bathyscope.stages.nights.ledger import Ledger, Pair
from bathyscope.stores.objects import Objects

FOLDER = "features"
_ROWS = b"rows"


def merge_features(
    config: Config, objects: Objects, ledger: Ledger, checkpoint: str, new: list[Pair], night: int
) -> None:
    """Add extractions to the tables of a checkpoint; `ledger.tables` then names the new ones."""
    latents, examples = _previous(objects, ledger.tables.get(checkpoint))
    for pair in new:
        run, name = run_of(config, pair), config.dictionary.name
        rows = int(run.manifest(f"{FEATURES}/{name}").facts["rows"])
        found = run.features(name).replace_schema_metadata({_ROWS: str(rows)})
        latents = found if latents is None else _merged(latents, found)
        strongest = run.examples(name).filter(pc.field("band") == 0)
        slices = pa.array([pair.slice] * len(strongest), pa.string())
        strongest = strongest.append_column("slice", slices)
        examples = strongest if examples is None else pa.concat_tables([examples, strongest])
    assert latents is not None, "a checkpoint is given with what it read"
    assert examples is not None, "as above"
    folder = f"{FOLDER}/{night:08d}/{checkpoint}"
    objects.put(f"{folder}/latents.parquet", to_parquet(latents))
    kept = _strongest(examples, config.describe.top_examples)
    objects.put(f"{folder}/examples.parquet", to_parquet(kept))
    ledger.tables[checkpoint] = folder


def drop_replaced(objects: Objects, ledger: Ledger, night: int) -> None:
    """Remove tables that neither this night nor the one before names."""
    wanted = set(ledger.tables.values())
    for number in objects.children(FOLDER):
        if int(number) >= night - 1:
            continue
        for checkpoint in objects.children(f"{FOLDER}/{number}"):
            if f"{FOLDER}/{number}/{checkpoint}" not in wanted:
                objects.delete_folder(f"{FOLDER}/{number}/{checkpoint}")
        objects.sweep(f"{FOLDER}/{number}")


def _previous(objects: Objects, folder: str | None) -> tuple[pa.Table | None, pa.Table | None]:
    if folder is None:
        return None, None
    tables = (f"{folder}/{name}.parquet" for name in ("latents", "examples"))
    latents, examples = (from_parquet(objects.get(key)) for key in tables)
    return latents, examples


def _merged(one: pa.Table, other: pa.Table) -> pa.Table:
    """Statistics of the rows of both; promoted tokens are those of the other."""
    counts = [np.asarray(table["count"]) for table in (one, other)]
    rows = sum(int(table.schema.metadata[_ROWS]) for table in (one, other))
    sums = [
        np.where(count > 0, np.nan_to_num(np.asarray(table["mean"], np.float64)) * count, 0.0)
        for table, count in zip((one, other), counts, strict=True)
    ]
    count = counts[0] + counts[1]
    fired = count > 0
    mean = np.where(fired, (sums[0] + sums[1]) / np.maximum(count, 1), np.nan)
    # NaN of a latent that was silent in one of them gives way to the other's.
    largest = np.fmax(*(np.asarray(table["max"], np.float32) for table in (one, other)))
    histograms = [
        table["histogram"].combine_chunks().values.to_numpy().reshape(len(count), -1)
        for table in (one, other)
    ]
    columns = {
        "count": count,
        "density": count / max(rows, 1),
        "mean": mean.astype(np.float32),
        "max": largest,
        "histogram": list(histograms[0] + histograms[1]),
    }
    merged = other
    for name, values in columns.items():
        field = other.schema.field(name)
        array = pa.array(values, type=field.type)
        merged = merged.set_column(merged.schema.get_field_index(name), field, array)
    return merged.replace_schema_metadata({_ROWS: str(rows)})


def _strongest(examples: pa.Table, num: int) -> pa.Table:
    """The examples with the largest activations of each latent, ranked anew."""
    by_value = [("latent", "ascending"), ("value", "descending"), ("slice", "ascending")]
    ordered = examples.sort_by([*by_value, ("item", "ascending"), ("position", "ascending")])
    latents = np.asarray(ordered["latent"])
    first = np.flatnonzero(np.concatenate([[True], latents[1:] != latents[:-1]]))
    starts = np.repeat(first, np.diff(np.concatenate([first, [len(latents)]])))
    rank = np.arange(len(latents)) - starts
    place = ordered.schema.get_field_index("rank")
    ranked = ordered.set_column(place, ordered.schema.field("rank"), pa.array(rank, pa.int64()))
    return ranked.filter(pa.array(rank < num))
