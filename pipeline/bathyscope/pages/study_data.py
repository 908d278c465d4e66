"""What the page of a scaling study shows, as plain values.

A study fills these; the page knows nothing of models or of how a figure is made. A number that was
not measured is None or NaN. `dataclasses.asdict` gives values that JSON can hold, and `from_dict`
reads them again; None is what JSON keeps of a missing number, as NaN is not JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Self

from bathyscope.pages.data import Number
from bathyscope.pages.lines import Reference, Series

ANSWERS = ("yes", "no", "not shown", "not measured")
KINDS = ("text", "number", "percent", "interval")
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim: its answer, the figure behind it with an interval, its controls and its doubt."""

    claim: str
    answer: str
    """One of `ANSWERS`. "not shown": it was measured, and the interval decides neither way."""
    value: Number
    low: Number
    high: Number
    unit: str
    controls: str
    """What the figure was held against, and what they gave."""
    doubt: str
    would_change: str
    """The observation that would turn the answer."""

    def __post_init__(self) -> None:
        _one_of(self.answer, ANSWERS, what=f"answer of the verdict {self.claim!r}")

    @classmethod
    def from_dict(cls, values: Values) -> Self:
        """The inverse of `dataclasses.asdict`. Raises `ValueError` for missing or unknown names."""
        return cls(**_fields(cls, values))


@dataclass(frozen=True, slots=True)
class Fit:
    """A formula fitted to points, and where it fails."""

    name: str
    formula: str
    """As text: "L(N) = E + A / N^α"."""
    parameters: Mapping[str, tuple[Number, Number, Number]]
    """Name -> value, low and high end of its interval."""
    points: int
    seeds: int
    fails: str

    @classmethod
    def from_dict(cls, values: Values) -> Self:
        """The inverse of `dataclasses.asdict`. Raises `ValueError` for missing or unknown names."""
        given = _fields(cls, values)
        parameters = {name: _three(ends) for name, ends in given.pop("parameters").items()}
        return cls(**given, parameters=parameters)


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: its series, the lines across it, and what its bars and bands are."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = True
    log_y: bool = False
    note: str = ""
    """What the intervals are, and what was left out."""
    references: Sequence[Reference] = ()

    @classmethod
    def from_dict(cls, values: Values) -> Self:
        """The inverse of `dataclasses.asdict`. Raises `ValueError` for missing or unknown names."""
        given = _fields(cls, values)
        series = tuple(_series(each) for each in given.pop("series"))
        lines = tuple(Reference(**_fields(Reference, r)) for r in given.pop("references", ()))
        return cls(**given, series=series, references=lines)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings; every column has a kind, which says how its values are written.

    A percent is given as a share of one; an interval as (low, high) or (value, low, high).
    """

    title: str
    columns: Sequence[tuple[str, str, str]]
    """Key of a row, heading, and one of `KINDS`."""
    rows: Sequence[Mapping[str, Any]]
    """A key that a row lacks was not measured."""

    def __post_init__(self) -> None:
        for _, heading, kind in self.columns:
            _one_of(kind, KINDS, what=f"kind of the column {heading!r} of the table {self.title!r}")

    @classmethod
    def from_dict(cls, values: Values) -> Self:
        """The inverse of `dataclasses.asdict`. Raises `ValueError` for missing or unknown names."""
        given = _fields(cls, values)
        columns = tuple((key, heading, kind) for key, heading, kind in given.pop("columns"))
        return cls(**given, columns=columns)


MEMBER_COLUMNS = (
    ("name", "model", "text"),
    ("architecture", "architecture", "text"),
    ("parameters", "parameters", "number"),
    ("embedding_parameters", "of these, embeddings", "number"),
    ("tokens", "training tokens", "number"),
    ("tokens_per_parameter", "tokens per parameter", "number"),
    ("seed", "seed", "number"),
    ("held_out_loss", "held-out loss, nats per token", "number"),
    ("overfitted", "overfitted", "text"),
)
"""The columns of `StudyPage.members`. `overfitted` is a bool; such models carry no verdict."""


@dataclass(frozen=True, slots=True)
class StudyPage:
    """Everything on the page of a study."""

    name: str
    title: str
    question: str
    answer: str
    """One or two plain sentences."""
    verdicts: Sequence[Verdict] = ()
    plots: Sequence[Plot] = ()
    fits: Sequence[Fit] = ()
    tables: Sequence[Table] = ()
    members: Sequence[Mapping[str, Any]] = ()
    """The models of the family, with the keys of `MEMBER_COLUMNS`."""
    protocol: Sequence[tuple[str, str]] = ()
    """Term, and the sentences on how it was done."""
    failures: Sequence[tuple[str, str]] = ()
    """Model, and the error that kept it out."""
    sources: Sequence[str] = ()
    definitions: Mapping[str, str] = field(default_factory=dict)
    """Metric -> the sentences that define it."""

    @classmethod
    def from_dict(cls, values: Values) -> Self:
        """The inverse of `dataclasses.asdict`. Raises `ValueError` for missing or unknown names."""
        given = _fields(cls, values)
        parts = (("verdicts", Verdict), ("plots", Plot), ("fits", Fit), ("tables", Table))
        for name, kind in parts:
            given[name] = tuple(kind.from_dict(each) for each in given.get(name, ()))
        for name in ("protocol", "failures"):
            given[name] = tuple((str(a), str(b)) for a, b in given.get(name, ()))
        for name in ("members", "sources"):
            given[name] = tuple(given.get(name, ()))
        return cls(**given)


def _series(values: Values) -> Series:
    given = _fields(Series, values)
    given["points"] = tuple((x, y) for x, y in given["points"])
    for name in ("lows", "highs"):
        given[name] = tuple(given.get(name, ()))
    return Series(**given)


def _three(ends: Sequence[Number]) -> tuple[Number, Number, Number]:
    value, low, high = ends
    return value, low, high


def _fields(kind: type[Any], values: Values) -> dict[str, Any]:
    known = {each.name for each in fields(kind)}
    unknown = sorted(set(values) - known)
    missing = sorted(
        each.name for each in fields(kind) if each.name not in values and _wanted(each)
    )
    if unknown or missing:
        raise ValueError(
            f"{kind.__name__} got the names {', '.join(sorted(values)) or 'of nothing'}; "
            f"unknown: {', '.join(unknown) or 'none'}; missing: {', '.join(missing) or 'none'}. "
            "Was it written by another version?"
        )
    return dict(values)


def _wanted(given: Field[Any]) -> bool:
    return given.default is MISSING and given.default_factory is MISSING


def _one_of(given: str, wanted: Sequence[str], *, what: str) -> None:
    if given not in wanted:
        raise ValueError(f"The {what} is {given!r}; it wants one of {', '.join(wanted)}.")
