"""Features over several slices: sums by hand, and the strongest examples of all."""

from __future__ import annotations

import math

import pyarrow as pa

from bathyscope.runs.tables import EXAMPLES_SCHEMA, LATENTS_SCHEMA
from bathyscope.stages.nights.merged import _merged, _strongest


def latents(rows: int, count: list[int], mean: list[float], largest: list[float]) -> pa.Table:
    columns = {
        "latent": [0, 1, 2],
        "count": count,
        "density": [c / rows for c in count],
        "mean": mean,
        "max": largest,
        "histogram": [[c, 2 * c] for c in count],
        **{
            f"{side}_{what}": [[]] * 3
            for side in ("promoted", "suppressed")
            for what in ("ids", "values")
        },
    }
    return pa.table(columns, schema=LATENTS_SCHEMA).replace_schema_metadata({b"rows": str(rows)})


def test_counts_add_up_and_means_are_weighted() -> None:
    nan = math.nan
    one = latents(100, [10, 0, 0], [2.0, nan, nan], [5.0, nan, nan])
    other = latents(300, [30, 4, 0], [4.0, 1.5, nan], [4.5, 2.0, nan])
    made = _merged(one, other)
    assert made["count"].to_pylist() == [40, 4, 0]
    assert made["density"].to_pylist() == [0.1, 0.01, 0.0]
    # (10 * 2 + 30 * 4) / 40
    assert made["mean"].to_pylist()[:2] == [3.5, 1.5]
    assert made["max"].to_pylist()[:2] == [5.0, 2.0]
    assert math.isnan(made["mean"].to_pylist()[2])
    assert made["histogram"].to_pylist() == [[40, 80], [4, 8], [0, 0]]
    again = _merged(made, one)
    assert again["density"].to_pylist() == [50 / 500, 4 / 500, 0.0]


def test_the_strongest_examples_stay_ties_to_the_earlier_slice() -> None:
    rows = [
        {"latent": latent, "band": 0, "rank": 9, "item": item, "position": 1, "value": value,
         "split": "held_out", "document": 0, "window_start": 0, "token_ids": [1],
         "activations": [value]}
        for latent, item, value in [(1, 5, 3.0), (0, 1, 1.0), (1, 4, 3.0), (1, 6, 9.0)]
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=EXAMPLES_SCHEMA)
    table = table.append_column("slice", pa.array(["b", "a", "a", "a"]))
    kept = _strongest(table, 2).to_pylist()
    assert [(r["latent"], r["rank"], r["value"], r["slice"]) for r in kept] == [
        (0, 0, 1.0, "a"),
        (1, 0, 9.0, "a"),
        (1, 1, 3.0, "a"),
    ]
    assert _strongest(table.slice(0, 0), 2).num_rows == 0
