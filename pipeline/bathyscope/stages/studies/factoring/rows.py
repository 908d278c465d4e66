"""Rows of the study of modules: which graph they are of, and how columns of them are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bathyscope.config import Config
from bathyscope.stages.studies.factoring.attribution import ATTRIBUTION
from bathyscope.stages.studies.factoring.measures import COFIRING, DICTIONARY
from bathyscope.stages.studies.verdicts import Of, Row, spread, trends_told

LEAST_EDGES = 50
"""Of a graph whose modules count."""
STRAIGHT = "Straight paths only: attention and the scale of norms are left out."
Where = Callable[[Row], bool]


def of(protocol: str, kind: str = DICTIONARY, graph: str = COFIRING) -> Where:
    """Whether a row is a graph of latents that fire together, of this kind, and with edges enough.

    Communities of a handful of edges say nothing.
    """
    every = counts_of(protocol, kind, graph)
    return lambda row: every(row) and row["edges"] >= LEAST_EDGES


def counts_of(protocol: str, kind: str = DICTIONARY, graph: str = COFIRING) -> Where:
    """The same with however few edges, for claims on their number."""
    return lambda row: row["graph"] == graph and row["kind"] == kind and row["protocol"] == protocol


def is_attribution(row: Row) -> bool:
    """Whether a row is a graph of attributions between blocks."""
    return bool(row["graph"] == ATTRIBUTION)


def trends_or_none(what: str, values: Sequence[Of], config: Config) -> list[str]:
    """The slope of a control, where it was measured."""
    return trends_told(what, values, config) if values else []


def range_of(values: Sequence[Of]) -> str:
    """Smallest to largest over the models."""
    return spread(v.value for v in values)


def counts_told(values: Sequence[Of]) -> str:
    """The same of numbers of edges, in full."""
    found = [v.value for v in values]
    if not found:
        return "not measured"
    ends = dict.fromkeys((f"{min(found):,.0f}", f"{max(found):,.0f}"))
    return " to ".join(ends)
