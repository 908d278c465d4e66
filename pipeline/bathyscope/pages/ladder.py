"""The page of a ladder: held-out loss against parameters, loss curves, and the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from bathyscope.pages.series import Series, series_plot
from bathyscope.pages.text import duration, escape, number

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Bathyscope ladder</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #1c1917; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: #44403c; }
.rule { stroke: #e7e5e4; fill: none; } .line { fill: none; stroke-width: 1.8; }
.legend { list-style: none; padding: 0; margin: 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem;
  font-size: .8rem; }
.legend i { display: inline-block; width: 1.6rem; vertical-align: middle; margin-right: .35rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e7e5e4; }
th:first-child, td:first-child { text-align: left; }
</style>
</head>
<body>
<h1>Bathyscope ladder</h1>
<p>$summary</p>
<div class="plots">$plots</div>
<h2>Models</h2>
<div class="wide"><table><thead><tr>$heads</tr></thead><tbody>$rows</tbody></table></div>
<p>results.json defines every column; curves.parquet has the points of the curves.</p>
</body>
</html>
""")

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
    return _PAGE.substitute(
        summary=escape(summary),
        plots="".join(plots),
        heads="".join(f"<th>{escape(head)}</th>" for _, head, _ in COLUMNS),
        rows="".join(_row(row) for row in rows),
    )


def table_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table as text: a row of heads, then a row per model."""
    heads = [head for _, head, _ in COLUMNS]
    return [heads, *[[write(row[key]) for key, _, write in COLUMNS] for row in rows]]


def _row(row: Row) -> str:
    cells = "".join(f"<td>{escape(write(row[key]))}</td>" for key, _, write in COLUMNS)
    return f"<tr>{cells}</tr>"


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
            dashed=seed != seeds[0],
            markers=True,
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
    first = min(row["seed"] for row in mine)
    # Sizes are called as the folders are, by the parameters that were asked for.
    series = [
        Series(
            f"{_size(row)}, seed {row['seed']}",
            [(tokens, held_out) for tokens, _, held_out in curves[row["name"]]],
            colour=sizes.index(row["parameters"]),
            dashed=row["seed"] != first,
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
