"""Whether a mean over models is above 0, as a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from bathyscope.pages.study_data import Verdict
from bathyscope.stages.studies.verdicts import Of, counted, sign_of

NULLS_THAT_KEEP_MORE = "Null graphs that keep more, such as the last two tokens, and reach the Q."


class Mean(NamedTuple):
    """A mean over models with its interval; NaN where there is none."""

    value: float
    low: float
    high: float


def above_zero(
    claim: str,
    values: Sequence[Of],
    controls: str,
    doubt: str,
    would_change: str = NULLS_THAT_KEEP_MORE,
) -> Verdict:
    """A claim that the mean over models is above 0, by Student's interval."""
    found = mean_of([v.value for v in values])
    if not values:
        controls, doubt = "", "No model has a graph with edges to tell it by."
    sizes = len({v.member.parameters for v in values})
    count = f"Mean over {counted(len(values), 'model')} of {counted(sizes, 'size')}, t interval."
    return Verdict(
        claim=claim,
        answer=sign_of(*found),
        value=found.value,
        low=found.low,
        high=found.high,
        unit="modularity Q",
        controls=controls,
        doubt=f"{count} {doubt}",
        would_change=would_change,
    )


def mean_of(values: Sequence[float]) -> Mean:
    """The mean over models; without an interval for fewer than two."""
    if not values:
        return Mean(math.nan, math.nan, math.nan)
    mean = float(np.mean(values))
    if len(values) < 2:
        return Mean(mean, math.nan, math.nan)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(student.ppf(0.975, len(values) - 1)) * error
    return Mean(mean, mean - reach, mean + reach)


def less(values: Sequence[Of], others: Sequence[Of]) -> list[Of]:
    """Each model's value less its own value among the others."""
    by_name = {v.member.name: v.value for v in others}
    return [
        Of(v.member, v.value - by_name[v.member.name]) for v in values if v.member.name in by_name
    ]


def less_first_weights(values: Sequence[Of], first: Sequence[Of]) -> list[Of]:
    """Each model's value less that of first weights of its size and architecture."""
    by_size = {(v.member.architecture, v.member.parameters): v.value for v in first}
    sizes = [(v, (v.member.architecture, v.member.parameters)) for v in values]
    return [Of(v.member, v.value - by_size[size]) for v, size in sizes if size in by_size]
