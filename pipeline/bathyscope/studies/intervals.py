"""Intervals of fitted quantities when few models were trained.

A group is what was made independently of the rest: one trained model, one dictionary, or all
points of one seed where the seed is shared. Points of a group are drawn and left out together.

How the interval is made depends on how many groups there are:

    8 and more   groups drawn with replacement, refitted, expanded percentiles (below)
    2 to 7       jackknife: refit without each group; θ ± t_f √((G−1)/G Σ (θ_g − θ̄)²)
    1            no interval

With two groups a bootstrap has three different resamples, none of them informative; the jackknife
with its one degree of freedom gives a wide interval that is honest. f is G − 1 where a group
alone could carry the fit, else G less the fitted parameters; f < 1 gives no interval.

Plain percentile intervals are too short for few groups by √(G/f) and by normal in place of t
quantiles. The tail is widened accordingly: Φ(√(G/f) t_f(tail)) (Hesterberg 2015).

What they cover: other groups drawn like these, thus seeds and noise of measurement, at the sizes
that the groups have. What they do not: the wrong formula, a bias shared by all groups (data,
tokeniser, hyperparameters that suit one size), and extrapolation beyond the measured sizes.
Resamples in which the smallest or largest size is missing widen them; groups are not drawn within
sizes instead, because two seeds drawn from two show half of their variance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student

from bathyscope.errors import FitError
from bathyscope.studies.points import Floats
from bathyscope.values import Json

Rows = NDArray[np.intp]
Statistic = Callable[[Rows], Mapping[str, float]]
"""Numbers of the points with these indices, some repeated; raises `FitError` where undefined."""
Method = Literal["bootstrap", "jackknife", "none"]

FEWEST_TO_DRAW = 8
"""Groups from which on they are drawn; below, each is left out in turn."""
_MOST_FAILED = 0.2
"""With a larger share of failed refits the rest says nothing about how the estimate varies."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its ends; both ends are NaN where `Intervals.note` says why."""

    estimate: float
    low: float
    high: float

    def record(self) -> Json:
        """The three numbers as JSON values; what is undefined is None."""
        return {name: v if np.isfinite(v) else None for name, v in vars(self).items()}


@dataclass(frozen=True)
class Intervals:
    """Intervals of several numbers from the same resamples."""

    of: dict[str, Interval]
    method: Method
    level: float
    num_groups: int
    num_resamples: int
    """Refits that were tried."""
    num_failed: int
    """Refits that the points of the resample did not allow."""
    note: str
    """Why there is no interval, or how many refits failed; empty when there is nothing to say."""

    def __getitem__(self, name: str) -> Interval:
        return self.of[name]

    def record(self) -> Json:
        """The intervals as JSON values; ends that do not exist are None."""
        return {
            "of": {name: interval.record() for name, interval in self.of.items()},
            "method": self.method,
            "level": self.level,
            "num_groups": self.num_groups,
            "num_resamples": self.num_resamples,
            "num_failed": self.num_failed,
            "note": self.note,
        }


@dataclass(frozen=True)
class Resamples:
    """A statistic of all points and of resamples of their groups."""

    names: tuple[str, ...]
    estimates: Floats
    """[names], from all points."""
    values: Floats
    """[resamples that did not fail, names]."""
    method: Method
    num_groups: int
    free: int
    """Degrees of freedom."""
    num_tried: int

    def intervals(self, level: float) -> Intervals:
        """Return the interval of each number, as the head of this file describes."""
        failed = self.num_tried - len(self.values)
        note = self._note(failed)
        ends = np.full((2, len(self.names)), np.nan)
        if self.method == "bootstrap" and failed <= _MOST_FAILED * self.num_tried:
            tail = self.tail(level)
            ends = np.quantile(self.values, [tail, 1 - tail], axis=0)
        elif self.method == "jackknife" and not failed:
            reach = student.ppf((1 + level) / 2, self.free) * self._jackknife_error()
            ends = np.stack([self.estimates - reach, self.estimates + reach])
        rows = zip(self.names, self.estimates, ends[0], ends[1], strict=True)
        of = {name: Interval(float(e), float(low), float(high)) for name, e, low, high in rows}
        return Intervals(of, self.method, level, self.num_groups, self.num_tried, failed, note)

    def tail(self, level: float) -> float:
        """Share of resamples beyond each end of the expanded percentile interval."""
        widening = np.sqrt(self.num_groups / self.free)
        return float(norm.cdf(widening * student.ppf((1 - level) / 2, self.free)))

    def _jackknife_error(self) -> Floats:
        count = self.num_groups
        spread = self.values - self.values.mean(axis=0)
        return np.sqrt((count - 1) / count * (spread**2).sum(axis=0))

    def _note(self, failed: int) -> str:
        if self.method == "none":
            return (
                f"{self.num_groups} independent groups leave {max(self.free, 0)} degrees of "
                "freedom: no interval; train more seeds"
            )
        if not failed:
            return ""
        enough = self.method == "bootstrap" and failed <= _MOST_FAILED * self.num_tried
        end = "" if enough else ", so there is no interval"
        return f"{failed} of {self.num_tried} resamples could not be fitted{end}"


def bootstrap(
    statistic: Statistic,
    groups: ArrayLike,
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    parameters: int = 1,
) -> Intervals:
    """Return intervals of all numbers of the statistic over groups; see the head of this file.

    `groups` [points] labels the group of each point, `parameters` is how many numbers the
    statistic fits. Same seed, same intervals. Raises `FitError` where the statistic is undefined
    for all points, and `ValueError` for a level outside (0, 1) or no resamples.
    """
    _check(resamples, level)
    return resample(
        statistic, groups, seed=seed, resamples=resamples, parameters=parameters
    ).intervals(level)


def resample(
    statistic: Statistic, groups: ArrayLike, *, seed: int, resamples: int, parameters: int
) -> Resamples:
    """Return the statistic of all points and of each resample of the groups."""
    members = _members(groups)
    num_points, count = sum(len(rows) for rows in members), len(members)
    free = count - (1 if num_points >= parameters * count else parameters)
    whole = statistic(np.arange(num_points))
    names = tuple(whole)
    estimates = np.array([whole[name] for name in names], dtype=np.float64)
    drawn: list[Rows] = []
    method: Method = "none"
    if count >= FEWEST_TO_DRAW and free >= 1:
        method = "bootstrap"
        choices = np.random.default_rng(seed).integers(count, size=(resamples, count))
        drawn = [np.concatenate([members[i] for i in choice]) for choice in choices]
    elif count >= 2 and free >= 1:
        method = "jackknife"
        drawn = [np.concatenate(members[:i] + members[i + 1 :]) for i in range(count)]
    values = [found for rows in drawn if (found := _refitted(statistic, rows, names)) is not None]
    stacked = np.stack(values) if values else np.empty((0, len(names)))
    return Resamples(names, estimates, stacked, method, count, free, len(drawn))


def _refitted(statistic: Statistic, rows: Rows, names: tuple[str, ...]) -> Floats | None:
    try:
        found = statistic(rows)
    except FitError:
        return None
    values = np.array([found[name] for name in names], dtype=np.float64)
    return values if np.isfinite(values).all() else None


def _members(groups: ArrayLike) -> list[Rows]:
    labels = np.asarray(groups)
    if labels.ndim != 1 or len(labels) == 0:
        raise FitError(f"groups are {list(labels.shape)}; wanted one label per point [points]")
    _, inverse = np.unique(labels, return_inverse=True)
    return [np.flatnonzero(inverse == i) for i in range(int(inverse.max()) + 1)]


def _check(resamples: int, level: float) -> None:
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"resamples {resamples} and level {level}: wanted at least 1 and between 0 and 1"
        )
