"""Scaling laws as sums of powers.

Each law is a sum of terms, and the logarithm of a term is linear in its parameters:

    ln ŷ = ln Σ_t exp(X_t θ_t),   θ_t = (ln coefficient, exponents)

with X_t a column of ones and logarithms of the inputs. The logarithm of the sum is taken stably
(log-sum-exp, as Hoffmann et al. 2022 do), coefficients stay positive, and the gradient is

    ∂ ln ŷ / ∂θ_t = (share of term t in ŷ) · X_t
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bathyscope.studies.points import Floats

Logs = Sequence[Floats]


@dataclass(frozen=True)
class Term:
    """One term of a law: coefficient · product of powers."""

    names: tuple[str, ...]
    """The coefficient's name, then the exponents'."""
    columns: Callable[[Logs], list[Floats]]
    """Logarithms of the inputs -> one column per exponent."""
    grid: tuple[tuple[float, ...], ...] = ()
    """Where the search starts, per exponent."""
    logarithmic: bool = False
    """The coefficient is stated as its logarithm, as in the paper of the law."""


@dataclass(frozen=True)
class Law:
    """A law's formula, its inputs and its terms."""

    formula: str
    inputs: tuple[str, ...]
    terms: tuple[Term, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all parameters, in the order of θ."""
        return tuple(name for term in self.terms for name in term.names)

    @property
    def coefficients(self) -> tuple[bool, ...]:
        """Which entries of θ are logarithms of stated coefficients."""
        return tuple(
            i == 0 and not term.logarithmic for term in self.terms for i in range(len(term.names))
        )

    def designs(self, inputs: Sequence[Floats]) -> list[Floats]:
        """X of each term, [points, parameters of the term], for positive inputs [points]."""
        logs = [np.log(values) for values in inputs]
        ones = np.ones_like(logs[0])
        return [np.stack([ones, *term.columns(logs)], axis=1) for term in self.terms]

    def stated(self, theta: Floats) -> Floats:
        """θ [..., parameters] with coefficients in place of their logarithms."""
        return np.where(self.coefficients, np.exp(np.where(self.coefficients, theta, 0)), theta)

    def theta(self, parameters: dict[str, float]) -> Floats:
        """θ of stated parameters; a coefficient of 0 becomes the logarithm of a very small one."""
        values = np.array([parameters[name] for name in self.names], dtype=np.float64)
        logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
        return np.where(self.coefficients, logs, values)

    def predict(self, theta: Floats, inputs: Sequence[Floats]) -> Floats:
        """ŷ [points] of θ at positive inputs."""
        logs = [x @ part for x, part in zip(self.designs(inputs), self.split(theta), strict=True)]
        return np.exp(log_sum(np.stack(logs))[0])

    def split(self, theta: Floats) -> list[Floats]:
        """θ cut into the parts of the terms."""
        return np.split(theta, np.cumsum([len(term.names) for term in self.terms])[:-1])


def log_sum(logs: Floats) -> tuple[Floats, Floats]:
    """Return ln Σ exp [points] of logarithms [terms, points], and each term's share of the sum."""
    top = logs.max(axis=0)
    powers = np.exp(logs - top)
    total = powers.sum(axis=0)
    return top + np.log(total), powers / total


def _nothing(logs: Logs) -> list[Floats]:
    return []


def _falling_first(logs: Logs) -> list[Floats]:
    return [-logs[0]]


def _falling_second(logs: Logs) -> list[Floats]:
    return [-logs[1]]


def _latents_and_k(logs: Logs) -> list[Floats]:
    latents, k = logs
    return [k, latents, k * latents]


def _k_alone(logs: Logs) -> list[Floats]:
    return [logs[1]]


def _damage(logs: Logs) -> list[Floats]:
    tokens, parameters, share, ended = logs
    return [tokens, -parameters, np.exp(share), np.exp(ended) - 1]


_EXPONENTS = (-0.3, 0.03, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0)
_PAIRS = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2)
_POWER = Term(("A", "alpha"), _falling_first, (_EXPONENTS,))
_IRREDUCIBLE = Term(("E",), _nothing)

PURE_POWER_LAW = Law("A x^-alpha", ("x",), (_POWER,))
"""A straight line on logarithmic axes (Kaplan et al. 2020)."""
POWER_LAW = Law("E + A x^-alpha", ("x",), (_POWER, _IRREDUCIBLE))
"""A power law above what stays however large x is, E >= 0."""
CHINCHILLA = Law(
    "E + A N^-alpha + B D^-beta",
    ("N", "D"),
    (
        Term(("A", "alpha"), _falling_first, (_PAIRS,)),
        Term(("B", "beta"), _falling_second, (_PAIRS,)),
        _IRREDUCIBLE,
    ),
)
"""Loss against parameters N and training tokens D (Hoffmann et al. 2022, approach 3)."""
JOINT = Law(
    "exp(alpha + beta_k ln k + beta_n ln n + gamma ln k ln n) + exp(zeta + eta ln k)",
    ("n", "k"),
    (
        Term(
            ("alpha", "beta_k", "beta_n", "gamma"),
            _latents_and_k,
            ((-0.3, 0.0, 0.3), (-0.5, -0.2, 0.0), (-0.05, 0.0)),
            logarithmic=True,
        ),
        Term(("zeta", "eta"), _k_alone, ((-0.5, -0.2, -0.05),), logarithmic=True),
    ),
)
"""Reconstruction loss of TopK dictionaries against latents n and k (Gao et al. 2024)."""
DAMAGE = Law(
    "C D^gamma_D N^-gamma_N exp(kappa s + epsilon (e - 1))",
    ("D", "N", "s", "e"),
    (
        Term(
            ("C", "gamma_D", "gamma_N", "kappa", "epsilon"),
            _damage,
            ((0.0, 0.5), (0.0, 0.5), (5.0, 15.0), (0.0,)),
        ),
    ),
)
"""What the loss rises by when a share s of the weights or of their bits is gone.

With s = 1 - P / 16 it is the law of Kumar et al. (2024, arXiv:2411.04330) for rounding to P bits
after training, whose exp(-P / gamma) has gamma = 16 / kappa. Training tokens D and parameters N
enter by themselves, so that size and training are told apart; e is 2 for weights whose learning
rate has come to its end, and 1 before.
"""
