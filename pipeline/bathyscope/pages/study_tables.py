"""The tables of a study: cells by kind, the models, and those that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from bathyscope.pages.data import Number
from bathyscope.pages.frame import scrolling
from bathyscope.pages.study_data import MEMBER_COLUMNS, Table
from bathyscope.pages.text import (
    NOT_MEASURED,
    escape,
    interval,
    is_measured,
    measured,
    number,
    percent,
)

_MISSING = f'<span class="missing">{NOT_MEASURED}</span>'


def table(given: Table) -> str:
    """The table as HTML, in a box that scrolls."""
    heads = "".join(
        f'<th scope="col"{_align(kind)}>{escape(heading)}</th>'
        for _, heading, kind in given.columns
    )
    rows = "".join(_row(given, row) for row in given.rows)
    caption = f"<caption>{escape(given.title)}</caption>" if given.title else ""
    head = f"{caption}<thead><tr>{heads}</tr></thead>"
    label = given.title or "Table"
    empty = "" if rows else f'<p class="note">{NOT_MEASURED}: no rows.</p>'
    body = f"{head}<tbody>{rows}</tbody>"
    return scrolling(body, label=label, columns=len(given.columns)) + empty


def members(rows: Sequence[Mapping[str, Any]]) -> str:
    """The models of the family; overfitted ones are said to carry no verdict."""
    named = [{**row, "overfitted": _left_out(row.get("overfitted"))} for row in rows]
    return table(Table("", MEMBER_COLUMNS, named))


def failed(failures: Sequence[tuple[str, str]]) -> str:
    """The models that gave no figures, and why."""
    columns = (("model", "model", "text"), ("error", "error", "text"))
    rows = [{"model": model, "error": error} for model, error in failures]
    return table(Table("", columns, rows))


def cell(value: Any, kind: str) -> str:
    """One value as HTML: as its kind writes it, and "not measured" where there is none.

    Raises `ValueError` for a value that its kind cannot write.
    """
    if kind == "interval":
        return _interval(value)
    if kind == "text" and not isinstance(value, float):
        if isinstance(value, bool):
            return "yes" if value else "no"
        return _MISSING if value is None else escape(value)
    if value is not None and not isinstance(value, Real):
        raise ValueError(
            f"A cell of kind {kind!r} got {value!r}; it wants a number, or None where nothing "
            "was measured. Give the column the kind 'text' if it holds text."
        )
    known: Number = None if value is None else _builtin(value)
    if not is_measured(known):
        return _MISSING
    return percent(known) if kind == "percent" else measured(known)


def _interval(value: Any) -> str:
    if value is None:
        return _MISSING
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) not in (2, 3):
        raise ValueError(
            f"A cell of kind 'interval' got {value!r}; it wants (low, high), (value, low, high) "
            "or None where nothing was measured."
        )
    *middle, low, high = (None if v is None else _builtin(v) for v in value)
    if middle and not is_measured(middle[0]):
        return _MISSING
    if not middle and not (is_measured(low) and is_measured(high)):
        return _MISSING
    return escape(" ".join([*map(number, middle), interval(low, high)]))


def _builtin(value: Any) -> float | int:
    """Numbers of numpy, too, as Python's."""
    return int(value) if isinstance(value, int) or hasattr(value, "bit_count") else float(value)


def _row(given: Table, row: Mapping[str, Any]) -> str:
    cells = "".join(f"<td{_align(k)}>{cell(row.get(key), k)}</td>" for key, _, k in given.columns)
    return f"<tr>{cells}</tr>"


def _left_out(overfitted: bool | None) -> str | None:
    if overfitted is None:
        return None
    return "yes: left out of verdicts" if overfitted else "no"


def _align(kind: str) -> str:
    return {"text": "", "interval": ' class="number interval"'}.get(kind, ' class="number"')
