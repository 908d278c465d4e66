"""Means over pairs of models, with intervals over models.

A model that is in several pairs makes them alike, so each model is left out in turn with all of its
pairs (a jackknife over the nodes of a graph, Snijders and Borgatti 1999). It is wide rather than
narrow: what is a pair's own is counted once for each of its two models. The quantile is Student's
with the lesser of models and pairs, less one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from bathyscope.stages.studies.verdicts import Row

Statistic = Callable[[Sequence[Row]], float]
LEVEL = 0.95
NOT_MEASURED = "not measured"


class Spread(NamedTuple):
    """A figure of several pairs."""

    value: float
    low: float
    """NaN where there are too few models for an interval."""
    high: float
    num_pairs: int
    num_models: int

    def told(self) -> str:
        """As a control is told."""
        if math.isnan(self.value):
            return NOT_MEASURED
        if math.isnan(self.low):
            return _short(self.value)
        return f"{_short(self.value)} [{_short(self.low)}, {_short(self.high)}]"


def _short(value: float) -> str:
    """Three digits, and none beyond the fourth decimal: what is nearly 0 is no news."""
    return f"{round(value, 4) + 0.0:.3g}"


def over_models(
    rows: Sequence[Row], statistic: Statistic, counted: Sequence[Row] | None = None
) -> Spread:
    """The statistic of all pairs, and its interval over models.

    `counted` are the pairs that it is of, where others are only held against: models of these
    alone stay in. NaN ends for fewer than two pairs or models, and where the statistic does not
    exist without one of the models.
    """
    own = rows if counted is None else counted
    models = sorted({name for row in own for name in models_of(row)})
    value = statistic(rows) if own else math.nan
    left = [statistic([r for r in rows if name not in models_of(r)]) for name in models]
    degrees = min(len(models), len(own)) - 1
    if degrees < 1 or not np.isfinite(left).all():
        return Spread(value, math.nan, math.nan, len(own), len(models))
    away = np.array(left) - np.mean(left)
    error = math.sqrt((len(left) - 1) / len(left) * float(away @ away))
    reach = float(student.ppf((1 + LEVEL) / 2, degrees)) * error
    return Spread(value, value - reach, value + reach, len(own), len(models))


def models_of(row: Row) -> tuple[str, str]:
    """The two models of a pair."""
    return row["model_a"], row["model_b"]


def mean_of(key: str, less: str | None = None) -> Statistic:
    """The mean of a column, or of its difference to another."""

    def statistic(rows: Sequence[Row]) -> float:
        values = [
            row[key] - (row[less] if less else 0.0)
            for row in rows
            if row.get(key) is not None and (less is None or row.get(less) is not None)
        ]
        return float(np.mean(values)) if values else math.nan

    return statistic


def slope_of(key: str, x: str) -> Statistic:
    """The least-squares slope of a column on log10 of another; NaN for fewer than two places."""

    def statistic(rows: Sequence[Row]) -> float:
        some = [row for row in rows if row.get(key) is not None]
        places = np.log10([row[x] for row in some])
        if len(set(places.round(9))) < 2:
            return math.nan
        away = places - places.mean()
        return float(away @ np.array([row[key] for row in some]) / (away @ away))

    return statistic


def below_ceiling(key: str, comparison: str, ceiling: str) -> Statistic:
    """Mean over pairs of one kind of the score less that of pairs of another kind.

    The other kind's are those of the sizes of the pair, either side; pairs without any are out.
    """

    def statistic(rows: Sequence[Row]) -> float:
        by_size: dict[Any, list[float]] = {}
        for row in rows:
            if row["comparison"] == ceiling and row.get(key) is not None:
                by_size.setdefault(_size(row, "a"), []).append(row[key])
        differences = []
        for row in rows:
            if row["comparison"] != comparison or row.get(key) is None:
                continue
            sides = {_size(row, "a"), _size(row, "b")}
            ceilings = [float(np.mean(by_size[side])) for side in sides if side in by_size]
            if ceilings:
                differences.append(row[key] - float(np.mean(ceilings)))
        return float(np.mean(differences)) if differences else math.nan

    return statistic


def less_kind(key: str, comparison: str, control: str) -> Statistic:
    """The mean of a column over pairs of one kind less that of another.

    Sizes are not matched: meant for kinds of the same sizes.
    """

    def statistic(rows: Sequence[Row]) -> float:
        own, other = (
            [row for row in rows if row["comparison"] == kind] for kind in (comparison, control)
        )
        return mean_of(key)(own) - mean_of(key)(other)

    return statistic


def kind_of(row: Mapping[str, Any], side: str) -> tuple[str, str]:
    """Architecture and tokenizer of one of a pair; no tokenizer where that was not noted."""
    return row[f"architecture_{side}"], row.get(f"tokenizer_{side}") or ""


def _size(row: Mapping[str, Any], side: str) -> tuple[str, str, int]:
    return *kind_of(row, side), row[f"parameters_{side}"]
