"""The plots of a study and the formulas fitted to them."""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.pages.series import series_plot
from bathyscope.pages.study_data import Fit, Plot, Table
from bathyscope.pages.study_tables import table
from bathyscope.pages.text import escape


def plots(given: Sequence[Plot]) -> str:
    """All plots, side by side where there is room."""
    return f'<div class="plots">{"".join(map(_plot, given))}</div>' if given else ""


def fits(given: Sequence[Fit]) -> str:
    """A card for each fit: the formula, its parameters with intervals, and where it fails."""
    return f'<div class="cards">{"".join(map(_fit, given))}</div>' if given else ""


def _plot(plot: Plot) -> str:
    return series_plot(
        plot.title,
        plot.series,
        x_label=plot.x_label + (" (logarithmic)" if plot.log_x else ""),
        y_label=plot.y_label + (" (logarithmic)" if plot.log_y else ""),
        log_x=plot.log_x,
        log_y=plot.log_y,
        references=plot.references,
        note=plot.note,
    )


def _fit(fit: Fit) -> str:
    columns = (("name", "parameter", "text"), ("value", "value [interval]", "interval"))
    rows = [{"name": name, "value": ends} for name, ends in fit.parameters.items()]
    terms = (
        ("formula", f"<code>{escape(fit.formula)}</code>"),
        ("fitted to", f"{_counted(fit.points, 'point')}, {_counted(fit.seeds, 'seed')}"),
        ("fails", escape(fit.fails or "not stated")),
    )
    listed = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in terms)
    return (
        f'<article class="fit"><h3>{escape(fit.name)}</h3><dl class="terms">{listed}</dl>'
        f"{table(Table('', columns, rows))}</article>"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
