"""Plots of the study of capability: every technique over size, and over bits per byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bathyscope.pages.series import Series
from bathyscope.pages.study_data import Plot
from bathyscope.stages.studies.capability.techniques import TECHNIQUES, Technique
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import Of, Row, by_architecture, judged, size_series

PARAMETERS = "parameters, embeddings included"
BITS = "bits per byte of the held-out text"
_CONTROL_STYLES = (4, 5, 2, 3)
"""Colours and markers; the first two belong to architectures, the next also to models at first."""


def plots(members: Sequence[Member], rows: Sequence[Row], bits: Mapping[str, float]) -> list[Plot]:
    """Two plots for each technique that was measured."""
    found = []
    for technique in TECHNIQUES:
        values = technique.values(judged(members), rows)
        if values:
            found.append(_over_size(technique, values, members, rows))
            found.append(_over_capability(technique, values, members, rows, bits))
    return found


def _over_size(
    technique: Technique, values: Sequence[Of], members: Sequence[Member], rows: Sequence[Row]
) -> Plot:
    series = _with_bars(technique, size_series(values), values, rows)
    untrained = technique.values([m for m in members if not m.trained], rows)
    series += size_series(untrained, "without training", colour=2)
    first = _first(values)
    rivals = [figure for figure in technique.controls if figure.rival]
    for style, figure in zip(_CONTROL_STYLES, rivals, strict=False):
        own = technique.values([m for m in judged(members) if m in first], rows, figure)
        for line in size_series(own):
            series.append(
                replace(line, label=figure.words, colour=style, marker=style, dashed=2, opacity=0.7)
            )
    note = "Controls (dotted) are of one architecture and seed." if rivals else ""
    if any(each.lows for each in series):
        note = f"Bars: 95 % intervals over documents. {note}".rstrip()
    return Plot(_title(technique), PARAMETERS, technique.unit, series, note=note)


def _over_capability(
    technique: Technique,
    values: Sequence[Of],
    members: Sequence[Member],
    rows: Sequence[Row],
    bits: Mapping[str, float],
) -> Plot:
    note = "More capable models are on the left."
    untrained = technique.values([m for m in members if not m.trained], rows)
    if untrained:
        # Drawn, they would squeeze the others into a corner.
        of, own = [bits[v.member.name] for v in untrained], [v.value for v in untrained]
        note += (
            f" Models without training are not drawn: {_range(own)} at {_range(of)} bits per byte."
        )
    title = f"{_title(technique)}, over capability"
    return Plot(title, BITS, technique.unit, _over_bits(values, bits), log_x=False, note=note)


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _over_bits(values: Sequence[Of], bits: Mapping[str, float]) -> list[Series]:
    """A line per architecture and seed, by bits per byte."""
    found = []
    ordered = sorted(values, key=lambda v: v.member.parameters)
    for number, name in enumerate(dict.fromkeys(v.member.architecture for v in ordered)):
        own = [v for v in values if v.member.architecture == name]
        for seed in sorted({v.member.seed or 0 for v in own}):
            points = sorted(
                (bits[v.member.name], v.value) for v in own if (v.member.seed or 0) == seed
            )
            found.append(
                Series(
                    f"{name}, seed {seed}",
                    points,
                    colour=number,
                    marker=number,
                    dashed=seed,
                    markers=True,
                )
            )
    return found


def _with_bars(
    technique: Technique, series: list[Series], values: Sequence[Of], rows: Sequence[Row]
) -> list[Series]:
    """The same with intervals over documents, where a figure is of one row of a model."""
    key = technique.figure.key
    ends: dict[tuple[Any, Any], tuple[float, float]] = {}
    for each in values:
        own = technique.rows_of(each.member, rows)
        if len(own) != 1 or own[0].get(f"{key}_low") is None:
            return series
        ends[(each.member.parameters, each.value)] = (own[0][f"{key}_low"], own[0][f"{key}_high"])
    found = []
    for line in series:
        both = [ends[(x, y)] for x, y in line.points]
        lows, highs = [low for low, _ in both], [high for _, high in both]
        found.append(replace(line, lows=lows, highs=highs))
    return found


def _first(values: Sequence[Of]) -> list[Member]:
    """Models of the first seed of the architecture of the most sizes."""
    own = next(iter(by_architecture(values).values()))
    return [v.member for v in own if v.member.seed == own[0].member.seed]


def _title(technique: Technique) -> str:
    return f"{technique.short[0].upper()}{technique.short[1:]}"
