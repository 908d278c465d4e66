"""Minimises the Huber loss of log residuals from many starts.

    loss(θ) = Σ_i w_i H(ln ŷ_i − ln y_i),   H(r) = r²/2 if |r| <= δ, else δ (|r| − δ/2)

H counts far points by their distance, not its square (Huber 1964); δ = 1e-3 as in Hoffmann et al.
(2022), so that most points are in the linear part.

Two things keep L-BFGS from stopping early. The loss is divided by δ while it is minimised: its
plain value is below the usual tolerances (Besiroglu et al. 2024 found the published Chinchilla
fit stopped so). And each term's columns are made orthogonal: ln A and α are almost collinear.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize, nnls

from bathyscope.errors import FitError
from bathyscope.studies.laws import Law, log_sum
from bathyscope.studies.points import Floats

DELTA = 1e-3
# The first pass has a wide quadratic part: from there the second finds its way in few steps.
_FIRST_DELTA = 0.1
# A term that a start leaves out begins as this share of y at most: from 0 it could not come back.
_LEFT_OUT = 1e-4


class Problem(NamedTuple):
    """What is minimised: a law's columns at the points, ln y and weights."""

    law: Law
    designs: list[Floats]
    """Per term, [points, parameters of the term]."""
    logs: Floats
    """ln y [points]."""
    weights: Floats
    """[points], >= 0."""
    delta: float


class Scaled(NamedTuple):
    """The problem in coordinates φ_t = R_t θ_t in which each term's columns are orthonormal."""

    problem: Problem
    bases: list[Floats]
    triangles: list[Floats]

    def to_theta(self, phi: Floats) -> Floats:
        parts = self.problem.law.split(phi)
        found = [np.linalg.solve(r, p) for r, p in zip(self.triangles, parts, strict=True)]
        return np.concatenate(found)

    def to_phi(self, theta: Floats) -> Floats:
        parts = self.problem.law.split(theta)
        return np.concatenate([r @ p for r, p in zip(self.triangles, parts, strict=True)])


def scaled(problem: Problem) -> Scaled:
    """Return the problem in orthonormal columns; raises `FitError` where the points are too few.

    Every term's exponents must be told apart by the inputs, and all parameters together need as
    many different settings of the inputs.
    """
    law = problem.law
    size = np.sqrt(len(problem.logs))
    bases, triangles = [], []
    for term, design in zip(law.terms, problem.designs, strict=True):
        basis, triangle = np.linalg.qr(design)
        diagonal = np.abs(np.diag(triangle))
        if len(diagonal) < design.shape[1] or diagonal.min() < 1e-9 * diagonal.max():
            raise FitError(
                f"the points cannot tell apart {', '.join(term.names)} of {law.formula}: wanted "
                f"more than one value of each of {', '.join(law.inputs)}, not all in step"
            )
        bases.append(basis * size)
        triangles.append(triangle / size)
    settings = len(np.unique(np.concatenate(problem.designs, axis=1), axis=0))
    if settings < len(law.names):
        raise FitError(
            f"{settings} different settings of {', '.join(law.inputs)} for the {len(law.names)} "
            f"parameters of {law.formula}: wanted at least as many"
        )
    return Scaled(problem, bases, triangles)


def objective(phi: Floats, scaled: Scaled, delta: float) -> tuple[float, Floats]:
    """Huber loss over δ, and its gradient in φ."""
    problem = scaled.problem
    parts = problem.law.split(phi)
    logs = np.stack([q @ part for q, part in zip(scaled.bases, parts, strict=True)])
    predicted, shares = log_sum(logs)
    residuals = predicted - problem.logs
    pull = problem.weights * np.clip(residuals, -delta, delta) / delta
    gradient = np.concatenate([(pull * s) @ q for s, q in zip(shares, scaled.bases, strict=True)])
    return huber(residuals, problem.weights, delta) / delta, gradient


def huber(residuals: Floats, weights: Floats, delta: float) -> float:
    """Σ w H(r), with H as above."""
    sizes = np.abs(residuals)
    inner = np.minimum(sizes, delta)
    return float(weights @ (inner * (sizes - inner / 2)))


def grid_starts(problem: Problem) -> list[Floats]:
    """One θ per point of the exponents' grid, with the coefficients that fit it best.

    With the exponents fixed a law is linear in its coefficients, so these come from non-negative
    least squares of the relative residuals.
    """
    law = problem.law
    grids = [axis for term in law.terms for axis in term.grid]
    return [_start(problem, exponents) for exponents in itertools.product(*grids)]


def _start(problem: Problem, exponents: Sequence[float]) -> Floats:
    law, left = problem.law, list(exponents)
    parts = [[left.pop(0) for _ in term.names[1:]] for term in law.terms]
    logs = np.stack(
        [x[:, 1:] @ np.array(part) for x, part in zip(problem.designs, parts, strict=True)], axis=1
    )
    logs -= problem.logs[:, None]
    tops = logs.max(axis=0)
    root = np.sqrt(problem.weights)
    found, _ = nnls(np.exp(logs - tops) * root[:, None], root)
    with np.errstate(divide="ignore"):
        coefficients = np.maximum(np.log(found), np.log(_LEFT_OUT)) - tops
    return np.concatenate(
        [[c, *part] for c, part in zip(coefficients, parts, strict=True)], dtype=np.float64
    )


def descend(scaled: Scaled, start: Floats, *, near: bool = False) -> tuple[Floats, float]:
    """Return θ and its Huber loss, from L-BFGS begun at the start θ.

    `near` says that the start is close to the end, so that the wide first pass is not needed.
    """
    phi = scaled.to_phi(start)
    delta = scaled.problem.delta
    for width in (delta,) if near else (max(_FIRST_DELTA, delta), delta):
        found = minimize(
            objective,
            phi,
            args=(scaled, width),
            method="L-BFGS-B",
            jac=True,
            options={"maxiter": 1000, "maxfun": 3000, "ftol": 1e-13, "gtol": 1e-9},
        )
        phi = found.x
    return scaled.to_theta(phi), float(found.fun) * delta
