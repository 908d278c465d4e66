"""From rows of a study's table to what they show: trends over size, with intervals and doubt.

Models without training and overfitted ones carry no verdict. Each architecture is judged by itself:
sizes of two architectures are no sizes of one family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bathyscope.config import Config
from bathyscope.errors import FitError
from bathyscope.pages.series import Series
from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.member import Member
from bathyscope.studies.regression import Trend, trend
from bathyscope.values import Json

Row = Mapping[str, Any]
_OPPOSITE = {"rises": "falls", "falls": "rises"}
_FEW_SIZES = 5
_EQUAL = 1.05
"""Ratio up to which models have seen as many tokens per parameter; whole steps differ a little."""


class Of(NamedTuple):
    """A value of one trained model."""

    member: Member
    value: float


def judged(members: Iterable[Member]) -> list[Member]:
    """Those that carry a verdict: trained, and not overfitted."""
    return [m for m in members if m.trained and not m.overfitted]


def first_seed(members: Iterable[Member]) -> list[Member]:
    """Of each architecture the models of its first seed."""
    found, seeds = list(members), dict[str, int | None]()
    for member in found:
        seeds.setdefault(member.architecture, member.seed)
    return [m for m in found if m.seed == seeds[m.architecture]]


def means(
    members: Iterable[Member], rows: Sequence[Row], key: str, where: Callable[[Row], bool]
) -> list[Of]:
    """The mean of a column over the rows of each member that pass; members without any are out."""
    found = []
    for member in members:
        values = [
            row[key]
            for row in rows
            if row["member"] == member.name and row.get(key) is not None and where(row)
        ]
        if values:
            found.append(Of(member, float(np.mean(values))))
    return found


def by_architecture(values: Iterable[Of]) -> dict[str, list[Of]]:
    """Values of each architecture, the one with the most sizes first."""
    found: dict[str, list[Of]] = {}
    for each in values:
        found.setdefault(each.member.architecture, []).append(each)
    return dict(sorted(found.items(), key=lambda item: -len(_sizes(item[1]))))


def trend_of(values: Sequence[Of], config: Config) -> Trend | None:
    """The slope on ln N over (size, seed) groups; None for fewer than two sizes."""
    try:
        return trend(
            [v.member.parameters for v in values],
            [v.value for v in values],
            [v.member.seed or 0 for v in values],
            seed=config.study.seed,
            resamples=config.study.resamples,
        )
    except FitError:
        return None


def trend_verdict(
    claim: str,
    values: Sequence[Of],
    config: Config,
    *,
    wanted: str,
    unit: str,
    controls: str,
    doubt: str,
    would_change: str,
) -> list[Verdict]:
    """A verdict for each architecture: whether a value `rises` or `falls` with the size.

    `claim` is a sentence without the architecture, which is put before it. One with fewer than
    three sizes is told among the doubts of the first and has no verdict of its own.
    """
    groups = by_architecture(values)
    large = {name: found for name, found in groups.items() if len(_sizes(found)) > 2}
    small = "; ".join(_told(name, v, config) for name, v in groups.items() if name not in large)
    verdicts = []
    for name, found in large.items():
        shown = trend_of(found, config)
        assert shown is not None, "there are three sizes"
        answer = {wanted: "yes", _OPPOSITE[wanted]: "no"}.get(shown.verdict, "not shown")
        told = [doubt, _few(found), small and f"Not judged: {small}."]
        verdicts.append(
            Verdict(
                claim=f"{name}: {claim}",
                answer=answer,
                value=shown.per_decade.estimate,
                low=shown.per_decade.low,
                high=shown.per_decade.high,
                unit=f"{unit} per tenfold parameters",
                controls=controls,
                doubt=" ".join(filter(None, told)),
                would_change=would_change,
            )
        )
    return verdicts


def sign_of(value: float, low: float, high: float) -> str:
    """The answer to whether a figure is above 0, by its interval; NaN ends decide nothing."""
    if math.isnan(value):
        return "not measured"
    if low > 0:
        return "yes"
    return "no" if high < 0 else "not shown"


def answer_of(verdicts: Sequence[Verdict]) -> str:
    """What the claims come to, in a sentence or two: which hold, which do not, and how many."""
    if not verdicts:
        return "Nothing was measured that could carry a verdict: three sizes are the least."
    told = []
    for answer, words in (
        ("yes", "Shown"),
        ("no", "The opposite is shown of"),
        ("not shown", "Not shown"),
    ):
        claims = [v.claim.rstrip(".") for v in verdicts if v.answer == answer]
        if claims:
            told.append(f"{words}: {'; '.join(claims)}.")
    return " ".join(told)


def trends_told(what: str, values: Sequence[Of], config: Config) -> list[str]:
    """The slope of a control by itself, for each architecture with three sizes."""
    return [
        f"{what} by themselves: {_told(name, found, config)}"
        for name, found in by_architecture(values).items()
        if len(_sizes(found)) > 2
    ]


def slope_told(config: Config, values: Sequence[Of]) -> str:
    """The slope over size in brackets; empty for fewer than two sizes."""
    shown = trend_of(values, config)
    if shown is None:
        return ""
    return f" ({shown.per_decade.estimate:+.3g} per tenfold parameters)".replace("-", "−")


def size_series(values: Sequence[Of], label: str = "", *, colour: int = 0) -> list[Series]:
    """A line per architecture and seed: the value against parameters."""
    lines: dict[tuple[str, int | None], list[tuple[float, float]]] = {}
    for each in sorted(values, key=lambda v: v.member.parameters):
        key = (each.member.architecture, each.member.seed)
        lines.setdefault(key, []).append((each.member.parameters, each.value))
    names = list(dict.fromkeys(name for name, _ in lines))
    seeds = sorted({seed or 0 for _, seed in lines})
    return [
        Series(
            ", ".join(filter(None, [label, name, f"seed {seed}"])),
            points,
            colour=colour + names.index(name),
            marker=colour + names.index(name),
            dashed=seeds.index(seed or 0),
            markers=True,
        )
        for (name, seed), points in lines.items()
    ]


def member_rows(members: Iterable[Member]) -> list[Json]:
    """The members as the page lists them."""
    return [
        {
            "name": m.name,
            "architecture": m.architecture,
            "parameters": m.parameters,
            "embedding_parameters": m.embedding_parameters,
            "tokens": m.tokens,
            "tokens_per_parameter": None if m.tokens is None else m.tokens / m.parameters,
            "seed": m.seed,
            "held_out_loss": m.held_out_loss,
            "overfitted": m.overfitted,
        }
        for m in members
    ]


def training_told(members: Sequence[Member]) -> str:
    """How much training goes with the size, which is a reason of its own for a trend.

    Empty where that is not known, or nearly the same for all.
    """
    ordered = sorted(members, key=lambda m: m.parameters)
    known = [m.tokens / m.parameters for m in ordered if m.tokens is not None]
    if len(known) < 2 or max(known) < _EQUAL * min(known):
        return ""
    return f"Tokens per parameter go from {known[0]:.3g} (smallest) to {known[-1]:.3g} (largest)."


def counted(number: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def spread(values: Iterable[float]) -> str:
    """Smallest to largest, as a control is told."""
    found = [v for v in values if v is not None and np.isfinite(v)]
    if not found:
        return "not measured"
    low, high = min(found), max(found)
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"


def _told(name: str, values: Sequence[Of], config: Config) -> str:
    shown = trend_of(values, config)
    if shown is None:
        return f"{name} has one size"
    line = shown.per_decade
    return (
        f"{name}, {len(_sizes(values))} sizes, {line.estimate:.3g} "
        f"[{line.low:.3g}, {line.high:.3g}] per tenfold parameters"
    )


def _few(values: Sequence[Of]) -> str:
    sizes = sorted(_sizes(values))
    seeds = len({v.member.seed for v in values})
    decades = np.log10(sizes[-1] / sizes[0])
    told = f"{len(sizes)} sizes over {decades:.1f} decades, {counted(seeds, 'seed')}."
    if len(sizes) < _FEW_SIZES or seeds < 2:
        told += " Too few to call it a law."
    return told


def _sizes(values: Sequence[Of]) -> set[int]:
    return {v.member.parameters for v in values}
