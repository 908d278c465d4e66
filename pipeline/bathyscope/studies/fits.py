"""Fits scaling laws: powers with an irreducible part, Chinchilla, L(n, k), damage by removal.

All by Huber loss on log residuals from many starts (`robust.py`); the formulas are in `laws.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bathyscope.errors import FitError
from bathyscope.studies.intervals import Intervals, Rows, bootstrap
from bathyscope.studies.laws import CHINCHILLA, DAMAGE, JOINT, POWER_LAW, PURE_POWER_LAW, Law
from bathyscope.studies.points import Floats, columns, positive
from bathyscope.studies.robust import DELTA, Problem, descend, grid_starts, huber, scaled
from bathyscope.values import Json

# Two starts met where their losses differ by less than this share, or by log residuals of 1e-6.
_SAME_LOSS = 1e-3
_SAME_PARAMETER = 0.02


@dataclass(frozen=True)
class Starts:
    """How well the points determine the fit: where the searches ended."""

    count: int
    """Searches begun, one per point of a grid of exponents."""
    at_best: int
    """Searches that ended within a thousandth of the lowest loss."""
    ranges: dict[str, tuple[float, float]]
    """Lowest and highest value of each parameter among these."""

    @property
    def agree(self) -> bool:
        """At least two searches met at the lowest loss, with parameters within 2 % of each other.

        False means that other parameters fit these points as well: quote predictions inside the
        measured range, not the parameters.
        """
        tight = all(
            high - low <= _SAME_PARAMETER * max(abs(low), abs(high), 0.01)
            for low, high in self.ranges.values()
        )
        return self.at_best >= 2 and tight


@dataclass(frozen=True, eq=False)
class Fit:
    """A law with its parameters, fitted to points."""

    law: Law
    parameters: dict[str, float]
    loss: float
    """Σ w H(log residual), with the stated δ."""
    delta: float
    residuals: Floats
    """ln y − ln ŷ [points]: 0.01 is 1 % above the law."""
    starts: Starts
    inputs: tuple[Floats, ...]
    y: Floats
    weights: Floats

    @property
    def num_points(self) -> int:
        """Points that were fitted."""
        return len(self.y)

    def predict(self, *inputs: ArrayLike) -> Floats:
        """ŷ [points] at inputs [points], in the order of the law; raises `FitError` below 0."""
        if len(inputs) != len(self.law.inputs):
            raise FitError(f"got {len(inputs)} inputs; wanted {', '.join(self.law.inputs)}")
        named = dict(zip(self.law.inputs, map(np.atleast_1d, inputs), strict=True))
        arrays = columns(**named)
        positive(**dict(zip(named, arrays, strict=True)))
        return self.law.predict(self.law.theta(self.parameters), arrays)

    def refit(self, rows: Rows) -> Fit:
        """Fit the points with these indices again, from here and from the grid's best start."""
        inputs = tuple(values[rows] for values in self.inputs)
        again = _Points(self.law, inputs, self.y[rows], self.weights[rows], self.delta)
        return _fit(again, near=self.law.theta(self.parameters))

    def record(self) -> Json:
        """The fit as JSON values, without its points."""
        return {
            "formula": self.law.formula,
            "parameters": dict(self.parameters),
            "loss": self.loss,
            "delta": self.delta,
            "num_points": self.num_points,
            "largest_residual": float(np.abs(self.residuals).max()),
            "starts": self.starts.count,
            "starts_at_best": self.starts.at_best,
            "starts_agree": self.starts.agree,
        }


def fit_power_law(
    x: ArrayLike,
    y: ArrayLike,
    *,
    irreducible: bool = True,
    weights: ArrayLike | None = None,
    delta: float = DELTA,
) -> Fit:
    """Fit y = E + A x^-α with E >= 0, or y = A x^-α with `irreducible` False.

    x, y and weights are positive [points]; α may be negative. Wanted are one point
    more than parameters and as many different x as parameters. Raises `FitError` where points
    are too few, not positive or cannot tell the parameters apart, `NonFiniteError` for NaN.
    """
    return _fit(_points(POWER_LAW if irreducible else PURE_POWER_LAW, (x,), y, weights, delta))


def fit_chinchilla(
    parameters: ArrayLike,
    tokens: ArrayLike,
    loss: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    delta: float = DELTA,
) -> Fit:
    """Fit L = E + A/N^α + B/D^β (Hoffmann et al. 2022); arguments and errors as `fit_power_law`."""
    return _fit(_points(CHINCHILLA, (parameters, tokens), loss, weights, delta))


def fit_joint(
    latents: ArrayLike,
    k: ArrayLike,
    loss: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    delta: float = DELTA,
) -> Fit:
    """Fit L(n, k) = exp(α + β_k ln k + β_n ln n + γ ln k ln n) + exp(ζ + η ln k) (Gao et al. 2024).

    n is the number of latents, k how many are active, the loss a normalised reconstruction error.
    Arguments and errors as `fit_power_law`.
    """
    return _fit(_points(JOINT, (latents, k), loss, weights, delta))


def fit_damage(
    tokens: ArrayLike,
    parameters: ArrayLike,
    share: ArrayLike,
    ended: ArrayLike,
    rise: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    delta: float = DELTA,
) -> Fit:
    """Fit δ = C D^γ_D N^-γ_N exp(κ s + ε [ended]), the rise of the loss with a share s gone.

    0 < s; `ended` says of which points the learning rate has come to its end. Arguments and errors
    as `fit_power_law`; for bits the form is that of Kumar et al. 2024.
    """
    last = 1.0 + np.asarray(ended, dtype=bool)
    return _fit(_points(DAMAGE, (tokens, parameters, share, last), rise, weights, delta))


def fit_intervals(
    fit: Fit,
    groups: ArrayLike,
    *,
    seed: int,
    at: Mapping[str, Sequence[float]] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
) -> Intervals:
    """Return intervals of a fit's parameters, and of its predictions at named inputs.

    `groups` [points] says which points belong together; `at` maps a name to one value per input
    of the law. What the intervals cover is at the head of `intervals.py`.
    """
    places = dict(at or {})
    if len(np.asarray(groups)) != fit.num_points:
        raise FitError(f"{len(np.asarray(groups))} groups for {fit.num_points} points")
    if clash := set(places) & set(fit.parameters):
        raise FitError(f"predictions named as parameters: {sorted(clash)}; wanted other names")

    def numbers(rows: Rows) -> dict[str, float]:
        again = fit if np.array_equal(rows, np.arange(fit.num_points)) else fit.refit(rows)
        found = {name: float(again.predict(*place)[0]) for name, place in places.items()}
        return {**again.parameters, **found}

    return bootstrap(
        numbers,
        groups,
        seed=seed,
        resamples=resamples,
        level=level,
        parameters=len(fit.law.names),
    )


@dataclass(frozen=True, eq=False)
class _Points:
    law: Law
    inputs: tuple[Floats, ...]
    y: Floats
    weights: Floats
    delta: float


def _points(
    law: Law, inputs: Sequence[ArrayLike], y: ArrayLike, weights: ArrayLike | None, delta: float
) -> _Points:
    if weights is None:
        weights = np.ones(len(np.atleast_1d(np.asarray(y))))
    named = dict(zip(law.inputs, inputs, strict=True))
    *arrays, values, weighing = columns(**named, y=y, weights=weights)
    positive(**dict(zip(law.inputs, arrays, strict=True)), y=values)
    if not (weighing.min() > 0 and delta > 0):
        raise FitError(
            f"smallest weight {weighing.min():g}, delta {delta:g}; wanted both above 0: leave out "
            "points that should not count"
        )
    if len(values) <= len(law.names):
        raise FitError(
            f"{len(values)} points for the {len(law.names)} parameters of {law.formula}: wanted at "
            f"least {len(law.names) + 1}, else the law passes through all of them whatever they are"
        )
    return _Points(law, tuple(arrays), values, weighing, delta)


def _fit(points: _Points, near: Floats | None = None) -> Fit:
    law = points.law
    logs = np.log(points.y)
    problem = scaled(Problem(law, law.designs(points.inputs), logs, points.weights, points.delta))
    starts = grid_starts(problem.problem)
    ends = []
    if near is not None:
        starts = [min(starts, key=lambda theta: _loss(points, theta))]
        ends = [descend(problem, near, near=True)]
    ends += [descend(problem, start) for start in starts]
    ends.sort(key=lambda end: end[1])
    theta, loss = ends[0]
    residuals = logs - np.log(law.predict(theta, points.inputs))
    if not np.isfinite(loss):
        raise FitError(f"no search ended at a finite loss for {law.formula}: got {loss}")
    return Fit(
        law,
        dict(zip(law.names, law.stated(theta).tolist(), strict=True)),
        loss,
        points.delta,
        residuals,
        _agreement(points, ends),
        points.inputs,
        points.y,
        points.weights,
    )


def _loss(points: _Points, theta: Floats) -> float:
    residuals = np.log(points.law.predict(theta, points.inputs)) - np.log(points.y)
    return huber(residuals, points.weights, points.delta)


def _agreement(points: _Points, ends: list[tuple[Floats, float]]) -> Starts:
    law = points.law
    best = ends[0][1]
    limit = best * (1 + _SAME_LOSS) + 0.5e-12 * points.weights.sum()
    met = np.stack([law.stated(theta) for theta, loss in ends if loss <= limit])
    ranges = zip(law.names, met.min(axis=0).tolist(), met.max(axis=0).tolist(), strict=True)
    return Starts(len(ends), len(met), {name: (low, high) for name, low, high in ranges})
