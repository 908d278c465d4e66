"""Whether a technique works best at a middle size or capability: shapes over both.

Capability is 1 / bits per byte of the held-out text. Seeds of a size differ in it a little; shapes
are compared over the mean of a size (of the logarithms), so that seeds repeat a place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bathyscope.config import Config
from bathyscope.errors import FitError
from bathyscope.stages.studies.capability.recovered import CAPABILITY
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.verdicts import Of, Row
from bathyscope.studies.regression import Trend, trend
from bathyscope.studies.sweet_spot import Comparison, compare

TENTH = math.log(1 / 0.9)
"""ln of the ratio of capabilities where bits per byte are a tenth fewer."""
_FEWEST_SIZES = 3
_MOST_RESAMPLES = 500
"""Refits of all shapes behind a middle: each takes milliseconds."""


class Shapes(NamedTuple):
    """How one architecture's values lie over size and over capability."""

    over_size: Comparison
    over_capability: Comparison | None
    """None where two sizes have equal bits per byte."""
    trend: Trend
    """On ln parameters."""
    capability_trend: Trend
    """On ln of 1 / bits per byte of each model."""


def bits_per_byte(members: Sequence[Member], rows: Sequence[Row]) -> dict[str, float]:
    """Of each member on the study's held-out text, by its name."""
    names = {m.name for m in members}
    return {
        row["member"]: row["bits_per_byte"]
        for row in rows
        if row["kind"] == CAPABILITY and row["member"] in names
    }


def shapes_of(config: Config, values: Sequence[Of], bits: Mapping[str, float]) -> Shapes | None:
    """Shapes and trends of one architecture's values; None for fewer than three sizes."""
    study = config.study
    places = [v.member.parameters for v in values]
    y, seeds = [v.value for v in values], [v.member.seed or 0 for v in values]
    draws = {"seed": study.seed, "resamples": study.resamples}
    refits = {**draws, "resamples": min(study.resamples, _MOST_RESAMPLES)}
    if len(set(places)) < _FEWEST_SIZES:
        return None
    capability = _capability_of_sizes(values, bits)
    try:
        over_capability = compare([capability[p] for p in places], y, seeds, **refits)
    except FitError:
        over_capability = None
    return Shapes(
        compare(places, y, seeds, **refits),
        over_capability,
        trend(places, y, seeds, **draws),
        trend([1 / bits[v.member.name] for v in values], y, seeds, **draws),
    )


def _capability_of_sizes(values: Sequence[Of], bits: Mapping[str, float]) -> dict[int, float]:
    """1 / bits per byte of each size: the geometric mean of its seeds."""
    found: dict[int, list[float]] = {}
    for each in values:
        found.setdefault(each.member.parameters, []).append(math.log(bits[each.member.name]))
    return {size: math.exp(-float(np.mean(logs))) for size, logs in found.items()}
