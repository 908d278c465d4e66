"""The table of a sweep: a row for each point, its settings and what its dictionary came to."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from bathyscope.runs.run import DICTIONARIES, EVALUATIONS, Run
from bathyscope.runs.tables import to_parquet
from bathyscope.stores.manifests import COMPLETE, latest
from bathyscope.stores.objects import Objects
from bathyscope.sweep_points import SweepPoint
from bathyscope.values import Json

_TRAINED = ("num_latents", "k", "rows", "train_fvu_last_batches")
_EVALUATED = (
    "l0", "fvu", "train_fvu", "fvu_pca", "delta_ce", "loss_recovered_zero", "dead_share",
)  # fmt: skip
_WIDTH = 10_000
_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "num_latents": ("latents", lambda v: f"{v:,}"),
    "train_fvu_last_batches": ("FVU, last batches", lambda v: f"{v:.4f}"),
    "l0": ("L0", lambda v: f"{v:.1f}"),
    "fvu": ("FVU held out", lambda v: f"{v:.4f}"),
    "delta_ce": ("ΔCE", lambda v: f"{v:.4f}"),
    "loss_recovered_zero": ("loss recovered (zero)", lambda v: f"{v:.4f}"),
    "dead_share": ("dead", lambda v: f"{100 * v:.1f} %"),
}


def table_of(
    points: Sequence[SweepPoint], errors: Mapping[tuple[str, str], str]
) -> list[dict[str, object]]:
    """A row for each point, in order; figures of what is not there are None.

    Held-out figures are there where the dictionary was evaluated. `errors` has, by run and name of
    dictionary, why a training ended early.
    """
    return [_row(point, errors) for point in points]


def store_table(objects: Objects, table: Sequence[Mapping[str, object]]) -> None:
    """Write the table as Parquet, with values of settings as numbers where they are, and JSON."""
    objects.put("table.parquet", to_parquet(pa.Table.from_pylist(list(table))))
    objects.put("table.json", json.dumps(list(table), indent=1, ensure_ascii=False).encode())


def told(table: Sequence[Mapping[str, object]]) -> str:
    """The table for a person, one line each, and below it why trainings ended early."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    settings = _settings(table)
    figures = [name for name in _SHOWN if any(row[name] is not None for row in table)]
    for name in ("dictionary", *settings):
        shown.add_column(name, no_wrap=True)
    for name in figures:
        shown.add_column(_SHOWN[name][0], justify="right", no_wrap=True)
    for row in table:
        shown.add_row(
            str(row["dictionary"]),
            *(str(row[name]) for name in settings),
            *(_cell(name, row[name]) for name in figures),
        )
    out = io.StringIO()
    Console(file=out, width=_WIDTH).print(shown)
    lines = [line.rstrip() for line in out.getvalue().rstrip().splitlines()]
    lines += [f"{row['dictionary']}: {row['error']}" for row in table if row["error"]]
    return "\n".join(lines)


def _row(point: SweepPoint, errors: Mapping[tuple[str, str], str]) -> dict[str, object]:
    config = point.config
    run, name = Run(config.url), config.dictionary.name
    trained = _facts(run, f"{DICTIONARIES}/{name}")
    evaluated = _facts(run, f"{EVALUATIONS}/{name}")
    error = errors.get((config.url, name))
    if error is not None:
        # What lies there under this name is an older one, if anything.
        trained = evaluated = {}
    return {
        "dictionary": name,
        "run": config.url,
        **{key: _number(value) for key, value in point.values.items()},
        **{key: trained.get(key) for key in _TRAINED},
        **{key: evaluated.get(key) for key in _EVALUATED},
        "error": error,
    }


def _facts(run: Run, artifact: str) -> Json:
    found = latest(run.objects.at(artifact), state=COMPLETE)
    return {} if found is None else dict(found.facts)


def _settings(table: Sequence[Mapping[str, object]]) -> list[str]:
    """The settings of the grid: what stands between the run and the first figure."""
    names = list(table[0])
    return names[names.index("run") + 1 : names.index(_TRAINED[0])]


def _number(value: str) -> object:
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() and "." not in value and "e" not in value else number


def _cell(name: str, value: object) -> str:
    return _SHOWN[name][1](value) if isinstance(value, int | float) else "-"
