"""The page of a ladder: held-out loss against parameters, loss curves, and the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bathyscope.pages.frame import one_file, scrolling, section
from bathyscope.pages.series import Series, series_plot
from bathyscope.pages.text import duration, escape, number

COLUMNS = (
    ("family", "family", str),
    ("parameters", "parameters", number),
    ("seed", "seed", str),
    ("tokens", "tokens", number),
    ("tokens_per_parameter", "tokens per parameter", lambda v: f"{v:.1f}"),
    ("train_loss", "train loss", lambda v: f"{v:.3f}"),
    ("held_out_loss", "held-out loss", lambda v: f"{v:.3f}"),
    ("gap", "gap", lambda v: f"{v:+.3f}".replace("-", "−")),
    ("bits_per_byte", "bits per byte", lambda v: f"{v:.3f}"),
    ("seconds", "time", duration),
)
"""Key of a row, what a person reads above it, and how its values are written."""

Row = Mapping[str, Any]
Points = Sequence[tuple[float, float, float]]


def ladder_page(rows: Sequence[Row], curves: Mapping[str, Points]) -> str:
    """The whole page. `curves` are (tokens, training loss, held-out loss) by the model's name."""
    families = list(dict.fromkeys(str(row["family"]) for row in rows))
    plots = [_against_parameters(rows, families)]
    plots += [_curves(rows, curves, family) for family in families]
    stopped = sum(bool(row["stopped_early"]) for row in rows)
    summary = (
        f"{len(rows)} models of {len(families)} families, trained on the same sequences in the "
        f"same order; {stopped} stopped early because their held-out loss got no better. Losses "
        "are in nats per token."
    )
    heads = "".join(f"<th{_align(key)}>{escape(head)}</th>" for key, head, _ in COLUMNS)
    body = "".join(_row(row) for row in rows)
    table = scrolling(
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>",
        label="Models",
        columns=len(COLUMNS),
    )
    files = "<p>results.json defines every column; curves.parquet has the points of the curves.</p>"
    return one_file(
        "Bathyscope ladder",
        kind="Models of growing size",
        facts=f"<p>{escape(summary)}</p>",
        sections=(
            section("plots", "Losses", body=f'<div class="plots">{"".join(plots)}</div>'),
            section("models", "Models", body=table + files),
        ),
    )


def table_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table as text: a row of heads, then a row per model."""
    heads = [head for _, head, _ in COLUMNS]
    return [heads, *[[write(row[key]) for key, _, write in COLUMNS] for row in rows]]


def _row(row: Row) -> str:
    cells = "".join(f"<td{_align(key)}>{escape(write(row[key]))}</td>" for key, _, write in COLUMNS)
    return f"<tr>{cells}</tr>"


def _align(key: str) -> str:
    return "" if key == COLUMNS[0][0] else ' class="number"'


def _against_parameters(rows: Sequence[Row], families: Sequence[str]) -> str:
    lines: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        lines[row["family"], row["seed"]].append((row["parameters"], row["held_out_loss"]))
    seeds = sorted({seed for _, seed in lines})
    series = [
        Series(
            f"{family}, seed {seed}",
            sorted(points),
            colour=families.index(family),
            dashed=seeds.index(seed),
            markers=True,
            marker=families.index(family),
        )
        for (family, seed), points in lines.items()
    ]
    return series_plot(
        "Held-out loss against parameters",
        series,
        x_label="parameters, embeddings included",
        y_label="held-out loss, nats per token",
    )


def _curves(rows: Sequence[Row], curves: Mapping[str, Points], family: str) -> str:
    mine = [row for row in rows if row["family"] == family]
    sizes = sorted({row["parameters"] for row in mine})
    seeds = sorted({row["seed"] for row in mine})
    # Sizes are called as the folders are, by the parameters that were asked for.
    series = [
        Series(
            f"{_size(row)}, seed {row['seed']}",
            [(tokens, held_out) for tokens, _, held_out in curves[row["name"]]],
            colour=sizes.index(row["parameters"]),
            dashed=seeds.index(row["seed"]),
        )
        for row in mine
    ]
    return series_plot(
        f"Held-out loss along the training: {family}",
        series,
        x_label="training tokens",
        y_label="held-out loss, nats per token",
    )


def _size(row: Row) -> str:
    return str(row["name"]).removeprefix(f"{row['family']}-").removesuffix(f"-seed{row['seed']}")
