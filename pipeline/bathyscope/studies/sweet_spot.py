"""Whether y has an extremum at a middle size: a parabola against monotone shapes, with doubt.

A place is named only where all of these hold, else the reason is returned:

    at least 5 sizes with at least 2 seeds each
    the parabola has the lowest AICc
    its lead over the monotone shapes is one that they would hardly give by chance: of data drawn
      from the best of them with its own residuals, at most 1 − level leads by as much
    the extremum and its interval lie inside the measured sizes, and in `level` of the resamples
      it is there and of the same kind
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bathyscope.errors import FitError
from bathyscope.studies.intervals import Resamples, Rows, resample
from bathyscope.studies.model_choice import Shape, shapes, vertex, weights
from bathyscope.studies.points import Floats, columns, positive
from bathyscope.studies.regression import models
from bathyscope.values import Json

FEWEST_SIZES, FEWEST_SEEDS = 5, 2
MONOTONE = ("constant", "linear", "monotone")


@dataclass(frozen=True)
class SweetSpot:
    """An extremum at a middle size."""

    size: float
    low: float
    high: float
    """Ends of the interval over (size, seed) models; all three in units of N."""
    kind: str
    """"maximum" or "minimum"."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The shapes of y on ln N, which one is chosen, and whether an extremum may be named."""

    shapes: dict[str, Shape]
    weights: dict[str, float]
    """Akaike weights of all points."""
    best: str
    """The shape with the lowest AICc."""
    quadratic_share: float
    """Share of resampled models in which the parabola has the lowest AICc; NaN where there are
    too few models. Repeated points favour bent shapes, so it leans upwards."""
    chance: float
    """Share of data drawn from the best monotone shape in which the parabola leads by as much; NaN
    where it does not lead."""
    sweet_spot: SweetSpot | None
    reason: str
    """Why no extremum is named; empty where one is."""

    def record(self) -> Json:
        """The comparison as JSON values; undefined numbers are None."""
        spot = self.sweet_spot
        named = None if spot is None else dict(vars(spot))
        share = self.quadratic_share
        return {
            "aicc": {n: s.aicc if np.isfinite(s.aicc) else None for n, s in self.shapes.items()},
            "weights": {n: w if np.isfinite(w) else None for n, w in self.weights.items()},
            "best": self.best,
            "quadratic_share": share if np.isfinite(share) else None,
            "chance": self.chance if np.isfinite(self.chance) else None,
            "sweet_spot": named,
            "reason": self.reason,
        }


def compare(
    sizes: ArrayLike,
    y: ArrayLike,
    seeds: ArrayLike,
    *,
    seed: int,
    resamples: int = 500,
    level: float = 0.95,
) -> Comparison:
    """Compare the shapes of y [points] on the logarithm of sizes [points] over (size, seed) models.

    Raises `FitError` for fewer than 3 sizes. Same seed, same result.
    """
    places, values = columns(sizes=sizes, y=y)
    positive(sizes=places)
    groups, z = models(places, seeds), np.log(places)
    if resamples < 1 or not 0 < level < 1:
        raise FitError(
            f"resamples {resamples}, level {level}; wanted at least 1, and within (0, 1)"
        )
    found = shapes(z, values)
    best = min(found, key=lambda name: found[name].aicc)
    drawn = _resampled(z, values, groups, seed=seed, resamples=resamples)
    bootstrapped = drawn.method == "bootstrap" and len(drawn.values) > 0
    share = float(drawn.values[:, 0].mean()) if bootstrapped else float("nan")
    chance = _chance(z, values, found, groups, seed=seed + 1, resamples=resamples)
    spot, reason = _name(places, seeds, (found, best, chance), drawn, level)
    return Comparison(found, weights(found), best, share, chance, spot, reason)


def _resampled(z: Floats, y: Floats, groups: Rows, *, seed: int, resamples: int) -> Resamples:
    def numbers(rows: Rows) -> dict[str, float]:
        found = shapes(z[rows], y[rows])
        quadratic = found["quadratic"]
        return {
            "wins": float(_lead(found) > 0),
            "vertex": vertex(quadratic, z[rows]),
            "bend": quadratic.coefficients["d"],
        }

    return resample(numbers, groups, seed=seed, resamples=resamples, parameters=3)


def _lead(found: dict[str, Shape]) -> float:
    """AICc of the best monotone shape less that of the parabola."""
    return min(found[name].aicc for name in MONOTONE) - found["quadratic"].aicc


def _chance(
    z: Floats, y: Floats, found: dict[str, Shape], groups: Rows, *, seed: int, resamples: int
) -> float:
    """Share of data drawn from the best monotone shape in which the parabola leads by as much.

    Each model's residuals get one random sign (wild bootstrap), and are widened by √(n/(n−p)) for
    the p coefficients that the shape took. NaN where the parabola does not lead.
    """
    lead = _lead(found)
    if not lead > 0:
        return float("nan")
    null = min((found[name] for name in MONOTONE), key=lambda shape: shape.aicc)
    taken = null.num_parameters - 1
    residuals = (y - null.fitted) * np.sqrt(len(y) / (len(y) - taken))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, groups.max() + 1))
    leads = [_lead(shapes(z, null.fitted + residuals * sign[groups])) for sign in signs]
    # The data themselves count as one draw, so that the share is never 0.
    return float(1 + sum(other >= lead for other in leads)) / (1 + resamples)


def _name(
    sizes: Floats,
    seeds: ArrayLike,
    comparison: tuple[dict[str, Shape], str, float],
    drawn: Resamples,
    level: float,
) -> tuple[SweetSpot | None, str]:
    found, best, chance = comparison
    if reason := _too_few(sizes, seeds):
        return None, reason
    if best != "quadratic":
        return None, f"the {best} shape has the lowest AICc: there is no extremum to place"
    if chance > 1 - level:
        return None, (
            f"{chance:.0%} of data drawn from the best monotone shape give the parabola as large a "
            f"lead in AICc, {_lead(found):.3g}; wanted at most {1 - level:.0%}"
        )
    at, low, high = np.exp(vertex(found["quadratic"], np.log(sizes))), sizes.min(), sizes.max()
    if not low < at < high:
        return None, (
            f"the parabola's extremum, at {at:.3g}, lies outside the measured sizes "
            f"{low:.3g} to {high:.3g}"
        )
    return _placed(found["quadratic"], at, (low, high), drawn, level)


def _placed(
    quadratic: Shape, at: float, ends: tuple[float, float], drawn: Resamples, level: float
) -> tuple[SweetSpot | None, str]:
    if drawn.method != "bootstrap" or len(drawn.values) == 0:
        return (
            None,
            f"{drawn.num_groups} models are too few to draw from: the place has no interval",
        )
    bend = quadratic.coefficients["d"]
    _, vertices, bends = drawn.values.T
    alike = np.sign(bends) == np.sign(bend)
    log_low, log_high = np.log(ends)
    inside = alike & (vertices > log_low) & (vertices < log_high)
    share = inside.sum() / drawn.num_tried
    if share < level:
        return None, (
            f"only {share:.0%} of resampled models have the extremum inside the measured sizes "
            f"{ends[0]:.3g} to {ends[1]:.3g}; wanted {level:.0%}"
        )
    tail = drawn.tail(level)
    low, high = np.exp(np.quantile(vertices[alike], [tail, 1 - tail])).tolist()
    if low <= ends[0] or high >= ends[1]:
        return None, (
            f"the extremum's {level:.0%} interval, {low:.3g} to {high:.3g}, reaches beyond the "
            f"measured sizes {ends[0]:.3g} to {ends[1]:.3g}"
        )
    return SweetSpot(float(at), low, high, "maximum" if bend < 0 else "minimum"), ""


def _too_few(sizes: Floats, seeds: ArrayLike) -> str:
    labels = np.asarray(seeds)
    counts = {size: len(np.unique(labels[sizes == size])) for size in np.unique(sizes)}
    enough = sum(count >= FEWEST_SEEDS for count in counts.values())
    if enough >= FEWEST_SIZES:
        return ""
    return (
        f"{enough} of {len(counts)} sizes have {FEWEST_SEEDS} seeds or more; an extremum is named "
        f"from {FEWEST_SIZES} such sizes on"
    )
