"""Means over pairs with intervals over targets, and how they are told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bathyscope.config import Config
from bathyscope.errors import FitError
from bathyscope.stages.studies.pair_intervals import mean_of, over_models
from bathyscope.stages.studies.verdicts import Row, counted
from bathyscope.studies.intervals import Rows, bootstrap

_FEW_SIZES = 5


class Spread(NamedTuple):
    """A mean over pairs; ends are NaN where there are too few targets."""

    value: float
    low: float
    high: float

    def told(self) -> str:
        """As a control is told."""
        if math.isnan(self.value):
            return "not measured"
        if math.isnan(self.low):
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    @property
    def as_ratio(self) -> Spread:
        """2 to the power of it: a mean of logarithms as a geometric mean."""
        return Spread(*(2.0**v for v in self))


def spread_of(records: Sequence[Row], key: str, config: Config) -> Spread:
    """The mean of a column; targets are drawn with replacement from 8 on, left out in turn below.

    All pairs of a target are drawn together, as they share its training from scratch.
    """
    known = [r for r in records if r.get(key) is not None]
    if not known:
        return Spread(math.nan, math.nan, math.nan)
    values = np.array([r[key] for r in known], dtype=float)
    names = {name: number for number, name in enumerate(dict.fromkeys(r["target"] for r in known))}

    def mean(rows: Rows) -> dict[str, float]:
        return {"mean": float(values[rows].mean())}

    try:
        found = bootstrap(
            mean,
            [names[r["target"]] for r in known],
            seed=config.study.seed,
            resamples=config.study.resamples,
        )["mean"]
    except FitError:
        return Spread(float(values.mean()), math.nan, math.nan)
    return Spread(found.estimate, found.low, found.high)


def ratio_of(records: Sequence[Row], config: Config, key: str = "saving") -> Spread:
    """Times fewer tokens: the geometric mean of the ratios, with its interval."""
    return spread_of(records, key, config).as_ratio


def count_told(records: Sequence[Row]) -> str:
    """How many pairs, targets, sizes and seeds are behind a figure, and whether these are few."""
    if not records:
        return ""
    sizes = {(r["architecture"], r["parameters"]) for r in records}
    seeds = {r["model_seed"] for r in records}
    targets = {r["target"] for r in records}
    told = (
        f"{counted(len(records), 'pair')} of {counted(len(targets), 'target')}, "
        f"{counted(len(sizes), 'size')}, {counted(len(seeds), 'seed')}."
    )
    if len(sizes) < _FEW_SIZES or len(seeds) < 2:
        told += " Too few to call it a law."
    return told


def over_models_of(records: Sequence[Row], key: str = "saving") -> Spread:
    """The same mean with each model left out in turn, as a source may serve several targets.

    A ratio where the column is the saving. Two seeds of a size are each the other's source. NaN
    where models are too few, and for starts that have no source.
    """
    pairs = [
        {**r, "model_a": r["source"], "model_b": r["target"]}
        for r in records
        if r["source"] is not None and r.get(key) is not None
    ]
    found = over_models(pairs, mean_of(key))
    spread = Spread(found.value, found.low, found.high)
    return spread.as_ratio if key == "saving" else spread


def over_models_told(found: Spread) -> str:
    """That interval in words; empty where there is none."""
    if math.isnan(found.low):
        return ""
    return (
        "With each model left out in turn, as source and as target, the interval is "
        f"[{found.low:.3g}, {found.high:.3g}]; a claim has to hold by both."
    )


def censored_told(records: Sequence[Row]) -> str:
    """How many starts never got to the loss, or had it before their first step."""
    never = sum(r["censored"] == "never" for r in records)
    start = sum(r["censored"] == "start" for r in records)
    others = sum(r.get("other_censored") == "never" for r in records)
    told = []
    if never:
        told.append(
            f"{never} of {len(records)} never reached the loss and count as if they did at the "
            "last step, which flatters them."
        )
    if others:
        told.append(
            f"Of {others} of {len(records)} the other start never did: these count too little."
        )
    if start:
        told.append(f"{start} of {len(records)} had it before the first step.")
    return " ".join(told)


def short(value: float) -> float | None:
    """Three digits, as tables and plots have them; None for what is not finite."""
    # What rounding leaves of 0 is no figure.
    return float(f"{round(value, 12):.3g}") + 0.0 if math.isfinite(value) else None
