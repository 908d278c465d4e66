"""Whether a quantity rises or falls with size: its slope on ln N, with a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from bathyscope.errors import FitError
from bathyscope.metrics.agreement import spearman
from bathyscope.studies.intervals import Interval, Rows, bootstrap
from bathyscope.studies.points import Floats, columns, positive
from bathyscope.values import Json

Verdict = Literal["rises", "falls", "no trend shown"]


@dataclass(frozen=True)
class Trend:
    """The straight line of y on ln N, and what it shows."""

    slope: Interval
    """Change of y per e-fold of N, least squares; over (size, seed) groups."""
    per_decade: Interval
    """The same per tenfold N."""
    spearman: float
    """Rank correlation of y with N: blind to the shape, NaN for a constant y."""
    verdict: Verdict
    """Rises or falls where the slope's interval leaves out 0."""
    reason: str
    """The interval in words, or why there is none."""
    level: float
    num_sizes: int
    num_groups: int

    def record(self) -> Json:
        """The trend as JSON values; ends that do not exist are None."""
        return {
            "slope": self.slope.record(),
            "per_decade": self.per_decade.record(),
            "spearman": self.spearman if np.isfinite(self.spearman) else None,
            "verdict": self.verdict,
            "reason": self.reason,
            "level": self.level,
            "num_sizes": self.num_sizes,
            "num_groups": self.num_groups,
        }


def trend(
    sizes: ArrayLike,
    y: ArrayLike,
    seeds: ArrayLike,
    *,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> Trend:
    """Return the slope of y on ln N with its interval over (size, seed) groups, and a verdict.

    sizes > 0, y and seeds are [points]; points of one size and seed are one trained model and are
    drawn together. "No trend shown" says that the interval holds 0 or that there is none, not
    that there is no trend. Raises `FitError` for fewer than two sizes.
    """
    places, values = columns(sizes=sizes, y=y)
    positive(sizes=places)
    groups = models(places, seeds)
    logs = np.log(places)

    def numbers(rows: Rows) -> dict[str, float]:
        return {"slope": slope(logs[rows], values[rows])}

    found = bootstrap(numbers, groups, seed=seed, resamples=resamples, level=level, parameters=2)
    line = found["slope"]
    verdict = _verdict(line)
    reason = found.note
    if np.isfinite(line.low):
        share = f"{level:.0%} interval [{line.low:.3g}, {line.high:.3g}] per e-fold of N"
        reason = "; ".join(filter(None, [f"{share}, {found.num_groups} models", found.note]))
    decade = Interval(*(float(np.log(10) * v) for v in (line.estimate, line.low, line.high)))
    return Trend(
        line,
        decade,
        spearman(places, values),
        verdict,
        reason,
        level,
        len(np.unique(places)),
        found.num_groups,
    )


def slope(x: Floats, y: Floats) -> float:
    """Least-squares slope of y on x [points]; raises `FitError` where all x are equal."""
    centred = x - x.mean()
    scale = float(centred @ centred)
    if scale <= 1e-18 * float(x @ x):
        raise FitError(f"all {len(x)} points have one size: wanted at least two sizes")
    return float(centred @ (y - y.mean())) / scale


def models(sizes: Floats, seeds: ArrayLike) -> Rows:
    """Label points [points] by trained model: one label per pair of size and seed."""
    labels = np.asarray(seeds)
    if labels.shape != sizes.shape:
        raise FitError(
            f"got sizes {list(sizes.shape)} and seeds {list(labels.shape)}; wanted one seed per "
            "point"
        )
    _, size_index = np.unique(sizes, return_inverse=True)
    _, seed_index = np.unique(labels, return_inverse=True)
    return np.asarray(size_index * (int(seed_index.max()) + 1) + seed_index, dtype=np.intp)


def _verdict(line: Interval) -> Verdict:
    if line.low > 0:
        return "rises"
    return "falls" if line.high < 0 else "no trend shown"
