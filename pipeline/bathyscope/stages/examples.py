"""The examples table: tokens and activations around the rows that were kept for each latent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from bathyscope.config import Config
from bathyscope.features.examples import SampledExamples, TopExamples
from bathyscope.features.windows import latent_activations, token_window
from bathyscope.runs.latents import Latents
from bathyscope.runs.run import Run
from bathyscope.runs.tables import EXAMPLES_SCHEMA
from bathyscope.values import Json, Unit

TOP = 0


class Chosen(NamedTuple):
    """A row that will be shown for a latent."""

    latent: int
    band: int
    """0 is the top; n is quantile band n, the strongest first."""
    rank: int
    row: int
    """item * P + position."""
    value: float


def examples_table(
    config: Config, run: Run, *, top: TopExamples, sampled: SampledExamples
) -> pa.Table:
    """One row per example, sorted by latent, band and rank."""
    chosen = [*_top(top), *_bands(config, sampled)]
    chosen.sort(key=lambda c: c.row)
    latents = run.latents[config.dictionary.name]
    # One compact table per unit: lists of Python numbers would take ten times the memory.
    tables = [EXAMPLES_SCHEMA.empty_table()]
    for unit, inside in _by_unit(latents, chosen):
        records = list(_windows(config, latents, unit, inside))
        tables.append(pa.Table.from_pylist(records, schema=EXAMPLES_SCHEMA))
    order = [(name, "ascending") for name in ("latent", "band", "rank")]
    return pa.concat_tables(tables).sort_by(order)


def _top(top: TopExamples) -> Iterator[Chosen]:
    for latent, rank in np.argwhere(top.rows >= 0):
        row, value = int(top.rows[latent, rank]), float(top.values[latent, rank])
        yield Chosen(int(latent), TOP, int(rank), row, value)


def _bands(config: Config, sampled: SampledExamples) -> Iterator[Chosen]:
    """The first few samples of every quantile band: a band is in order of its activations."""
    bands = sampled.quantile_bands(config.describe.bands)
    for band in range(config.describe.bands):
        inside = bands.bands == band
        rank = np.cumsum(inside, axis=1) - 1
        shown = inside & (rank < config.describe.examples_per_band)
        for latent, place in np.argwhere(shown):
            yield Chosen(
                int(latent),
                band + 1,
                int(rank[latent, place]),
                int(bands.rows[latent, place]),
                float(bands.values[latent, place]),
            )


def _by_unit(latents: Latents, chosen: list[Chosen]) -> Iterator[tuple[Unit, list[Chosen]]]:
    """Examples by the unit that holds their rows; `chosen` is sorted by row."""
    rows = np.array([c.row for c in chosen], dtype=np.int64)
    per_item = latents.corpus.sequence_length
    for unit in latents.units():
        first, last = np.searchsorted(rows, [unit.start * per_item, unit.stop * per_item])
        if last > first:
            yield unit, chosen[first:last]


def _windows(config: Config, latents: Latents, unit: Unit, chosen: list[Chosen]) -> Iterator[Json]:
    corpus = latents.corpus
    per_item = corpus.sequence_length
    of_unit = latents.of_unit(unit)
    tokens = corpus.tokens(unit.start, unit.stop).numpy()
    documents = corpus.documents(unit.start, unit.stop)
    for example in chosen:
        item, position = divmod(example.row, per_item)
        place = item - unit.start
        window = token_window(
            position,
            per_item,
            before=config.describe.window_before,
            after=config.describe.window_after,
        )
        first = place * per_item
        shown = of_unit.rows(first + window.start, first + window.stop)
        yield {
            "latent": example.latent,
            "band": example.band,
            "rank": example.rank,
            "item": item,
            "position": position,
            "value": example.value,
            "split": unit.split,
            "document": int(documents[place, position]),
            "window_start": window.start,
            "token_ids": tokens[place, window].tolist(),
            "activations": latent_activations(example.latent, *shown).tolist(),
        }
