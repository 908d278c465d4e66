"""Tails that allow for an effect of the night: mixtures over a t-distributed effect.

An effect on the log odds changes how many documents are expected, by a factor; so a rare latent has
a skewed law that no addition of variances gives. With θ = τ T, T t-distributed,

    P = E Φ(-r(θ)),   r(θ)² = r² - 2 (I(0) - I(θ))

r is the normal quantile of the probability under the documents alone, and I(θ) = Σ O log(O / E_θ)
the information of the fourfold table against the one with the same margins and odds ratio e^θ:
√(2 I) is the signed root of the deviance, which is nearly normal. This is a model, and an
approximation of one; it is compared with exact mixtures and with simulations.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp, ndtri_exp, xlogy
from scipy.stats import t as student

Floats = NDArray[np.float64]

# T = sinh(u): steps of 0.02 near 0, and the far tails of few degrees of freedom are reached.
_STEP = 0.02
_NODES = np.sinh(np.arange(-20, 20 + _STEP / 2, _STEP))
# e^θ and its table stay finite; an effect of 30 moves every document.
_LARGEST_EFFECT = 30.0
_CHUNK = 2048


def shifted_tail(log_p: Floats, omega: Floats, degrees: Floats | float) -> Floats:
    """Return log P(Z + ω T > r) [n], r the normal quantile of `log_p` [n], Z standard normal.

    For sums that a night's effect shifts: means of log scores. At least `log_p`.
    """
    out = np.array(log_p, dtype=np.float64)
    degrees = np.broadcast_to(degrees, out.shape)
    changed = np.flatnonzero((omega > 0) & (out < 0))
    for start in range(0, len(changed), _CHUNK):
        part = changed[start : start + _CHUNK]
        r = -ndtri_exp(out[part])
        tails = log_ndtr(omega[part, None] * _NODES - r[:, None])
        mixed = np.minimum(logsumexp(tails + _log_weights(degrees[part]), axis=1), 0.0)
        out[part] = np.maximum(out[part], mixed)
    return out


def odds_tail(
    log_p: Floats,
    table: tuple[Floats, Floats, Floats, Floats],
    tau: Floats,
    degrees: Floats | float,
) -> Floats:
    """Return log probabilities [n] that allow for an effect of size τ [n] on the log odds.

    `table` has the night's hits, all hits, the night's documents and all documents [n], the hits
    above their expectation; need not be whole numbers. At least `log_p`.
    """
    out = np.array(log_p, dtype=np.float64)
    degrees = np.broadcast_to(degrees, out.shape)
    changed = np.flatnonzero((tau > 0) & (out < 0))
    for start in range(0, len(changed), _CHUNK):
        part = changed[start : start + _CHUNK]
        hits, all_hits, drawn, total = (column[part, None] for column in table)
        effects = np.clip(tau[part, None] * _NODES, -_LARGEST_EFFECT, _LARGEST_EFFECT)
        expected = _expected(all_hits, drawn, total, np.exp(effects))
        unchanged = _information(hits, all_hits, drawn, total, drawn * all_hits / total)
        information = _information(hits, all_hits, drawn, total, expected)
        r = np.maximum(-ndtri_exp(out[part]), 0.0)[:, None]
        below = np.sqrt(np.maximum(r * r - 2 * (unchanged - information), 0.0))
        above = -np.sqrt(2 * np.maximum(information, 0.0))
        tails = log_ndtr(-np.where(expected < hits, below, above))
        mixed = np.minimum(logsumexp(tails + _log_weights(degrees[part]), axis=1), 0.0)
        out[part] = np.maximum(out[part], mixed)
    return out


def _expected(all_hits: Floats, drawn: Floats, total: Floats, odds: Floats) -> Floats:
    """The night's hits in the table with these margins and odds ratio: a root of a quadratic."""
    b = total + (odds - 1) * (drawn + all_hits)
    root = np.sqrt(np.maximum(b * b - 4 * (odds - 1) * odds * drawn * all_hits, 0.0))
    expected: Floats = 2 * odds * drawn * all_hits / np.maximum(b + root, 1e-300)
    lowest = np.maximum(drawn + all_hits - total, 0.0)
    return np.clip(expected, lowest, np.minimum(drawn, all_hits))


def _information(
    hits: Floats, all_hits: Floats, drawn: Floats, total: Floats, expected: Floats
) -> Floats:
    """Σ O log(O / E) over the four cells."""
    rest = total - all_hits - drawn
    cells = (
        (hits, expected),
        (all_hits - hits, all_hits - expected),
        (drawn - hits, drawn - expected),
        (rest + hits, rest + expected),
    )
    out = np.zeros(np.broadcast(hits, expected).shape)
    for seen, wanted in cells:
        seen = np.maximum(seen, 0.0)
        out += xlogy(seen, seen) - xlogy(seen, np.maximum(wanted, 1e-300))
    return out


def _log_weights(degrees: Floats) -> Floats:
    """Log weights of the nodes: the density of T times the trapezoid rule's steps [n, nodes]."""
    # Few degrees are different, and a density is slow.
    different, places = np.unique(degrees, return_inverse=True)
    densities = student.logpdf(_NODES, different[:, None])
    out: Floats = (densities + np.log(np.hypot(1.0, _NODES)) + math.log(_STEP))[places]
    return out
