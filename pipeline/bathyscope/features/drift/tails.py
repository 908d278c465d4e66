"""Tail probabilities of a random choice of documents: exact, or bounded from above with a proof.

The null hypothesis is that the documents of a night and of its reference are exchangeable: given
all N documents, any n of them could have been the night's. Then a sum over the night's documents
has the law of a sum over a random n-subset, whatever the documents look like: sparse, skewed,
heavy. Nothing here is a normal approximation, so levels of 1e-10 mean what they say.

With real numbers t and v, and scores x_d of the N documents, the number of n-subsets whose sum is
at least X is at most the number of all subsets, each weighted with
exp(t (sum - X) + v (size - n)) ≥ 0, which is ≥ 1 for those counted when t ≥ 0:

    P(sum ≥ X) ≤ exp(-t X - v n) Π_d (1 + exp(v + t x_d)) / C(N, n) · q                        (1)

With those weights each document is in the subset independently, with probability
p_d = 1 / (1 + exp(-v - t x_d)), and q is the probability that n of them are. It is at most 1, and
at most 0.4689 / √(Σ p_d (1 - p_d)), the constant being the maximum of √x e^-x I₀(x) (Baillon,
Cominetti and Vaisman 2016, A sharp uniform bound for the distribution of sums of Bernoulli trials).

Sampling without replacement is dominated, for convex functions, by sampling with replacement
(Hoeffding 1963, theorem 4), so the bounds of Chernoff and Bennett for independent draws hold too.
All results are natural logarithms of one-sided probabilities, at most 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

Floats = NDArray[np.float64]
Numbers = NDArray[Any] | float

_STEPS = 40
_MODE = 0.46883
# Largest change of a log weight in one Newton step: keeps a start far off from overshooting.
_LARGEST_STEP = 2.0


def log_choose(n: Numbers, k: Numbers) -> Floats:
    """Return log C(n, k)."""
    out: Floats = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
    return out


def hypergeometric_tail(hits: Numbers, all_hits: Numbers, drawn: Numbers, total: Numbers) -> Floats:
    """Return an upper bound of log P(at least `hits` of `all_hits` are among `drawn` of `total`).

    Fisher's exact test. Ratios of neighbouring probabilities fall, so the tail is at most the
    geometric series P(hits) / (1 - ratio): exact to some percent beyond three standard deviations,
    and 0 (a probability of 1) up to the mode.
    """
    hits, all_hits = np.asarray(hits, np.float64), np.asarray(all_hits, np.float64)
    misses = total - all_hits
    log_p = log_choose(all_hits, hits) + log_choose(misses, drawn - hits) - log_choose(total, drawn)
    divisor = (hits + 1) * (misses - drawn + hits + 1)
    ratio = (all_hits - hits) * (drawn - hits) / divisor
    with np.errstate(divide="ignore"):
        series = np.where(ratio < 1, log_p - np.log1p(-np.minimum(ratio, 1)), 0.0)
    return np.minimum(series, 0.0)


def class_tail(
    night: Numbers, reference: Numbers, scores: Numbers, *, steps: int = _STEPS
) -> Floats:
    """Return an upper bound of log P(sum of the night's scores is at least what it is) [...].

    `night` and `reference` [..., classes] count the documents of each class, `scores` [classes]
    are the classes' scores. The smaller of bound (1), minimised over t and v by Newton's method,
    and Chernoff's with replacement; every t and v give a valid bound, so the minimum need not be
    found exactly. 0 where the sum is not above its expectation.
    """
    night, reference = np.asarray(night, np.float64), np.asarray(reference, np.float64)
    both, scores = night + reference, np.asarray(scores, np.float64)
    total, drawn = both.sum(-1), night.sum(-1)
    sums, all_sums = night @ scores, both @ scores
    up = (sums * total > drawn * all_sums) & (drawn > 0) & (drawn < total)
    out = np.zeros(np.shape(total))
    if up.any():
        chosen = both[up], scores, drawn[up], sums[up]
        # The night's sum is high exactly when the reference's is low.
        few = drawn[up] * 2 <= total[up]
        part = np.where(few, drawn[up], total[up] - drawn[up])
        sign = np.where(few, 1.0, -1.0)[:, None]
        of_part = np.where(few, sums[up], sums[up] - all_sums[up])
        with_replacement = _chernoff(both[up], sign * scores, part, of_part, steps)
        out[up] = np.minimum(_subsets(*chosen, steps), with_replacement)
    return np.minimum(out, 0.0)


def moment_tail(
    deviation: Numbers,
    drawn: Numbers,
    total: Numbers,
    squares: Numbers,
    below: Numbers,
    above: Numbers,
) -> Floats:
    """Return an upper bound of log P(sum of the night's scores is `deviation` above expectation).

    `squares` is Σ (x_d - μ)² over all documents, `below` μ - min x and `above` max x - μ.
    The smaller of two bounds. With v = log(π / (1 - π)) - t μ, π = n / N, in (1), and the one
    of Kearns and Saul (1998), log(1 - π + π e^y) ≤ π y + K y²,

        exp(-deviation² / (4 K squares)) / P(Bin(N, π) = n),  K = (1 - 2π) / (4 log((1 - π) / π)),

    times q, which needs no range and has the normal exponent at π = ½. For q: p (1 - p) changes by
    a factor of at most e^|y|, so Σ p_d (1 - p_d) ≥ N π (1 - π) exp(-t σ). And Bennett's (1962), for
    the smaller side drawn with replacement.
    """
    deviation, squares = np.asarray(deviation, np.float64), np.asarray(squares, np.float64)
    drawn, total = np.asarray(drawn, np.float64), np.asarray(total, np.float64)
    testable = (deviation > 0) & (squares > 0) & (drawn > 0) & (drawn < total)
    share = np.where(testable, drawn / np.maximum(total, 1), 0.5)
    squares, deviation = np.where(testable, squares, 1.0), np.where(testable, deviation, 0.0)
    log_exactly = log_choose(total, drawn) + xlogy(drawn, share) + xlogy(total - drawn, 1 - share)
    curve = 2 * _kearns_saul(share) * squares
    t = deviation / curve
    spread = total * share * (1 - share) * np.exp(-t * np.sqrt(squares / np.maximum(total, 1)))
    subsets = -deviation * t / 2 - log_exactly + _log_mode(spread)
    few = drawn * 2 <= total
    part = np.maximum(np.where(few, drawn, total - drawn), 1.0)
    largest = np.where(few, above, below)
    largest = np.where(largest > 0, largest, 1.0)
    variance = squares / np.maximum(total, 1)
    gain = largest * (deviation / part) / variance
    bennett = -part * variance / largest**2 * ((1 + gain) * np.log1p(gain) - gain)
    return np.where(testable, np.minimum(np.minimum(subsets, bennett), 0.0), 0.0)


def _kearns_saul(share: Floats) -> Floats:
    """(1 - 2π) / (4 log((1 - π) / π)), 1/8 at π = ½."""
    apart = np.abs(share - 0.5) > 1e-6
    away = np.where(apart, share, 0.25)
    return np.where(apart, (1 - 2 * away) / (4 * np.log((1 - away) / away)), 0.125)


def _chernoff(both: Floats, scores: Floats, drawn: Floats, sums: Floats, steps: int) -> Floats:
    """-t X + n log Σ_c w_c exp(t s_c), minimised over t ≥ 0; `scores` [rows, classes]."""
    weights = both / both.sum(-1, keepdims=True)
    largest = np.abs(scores).max()
    t = np.zeros(len(both))
    for _ in range(steps):
        tilted = weights * np.exp(t[:, None] * (scores - scores.max(-1, keepdims=True)))
        tilted /= tilted.sum(-1, keepdims=True)
        means = (tilted * scores).sum(-1)
        variances = (tilted * (scores - means[:, None]) ** 2).sum(-1)
        step = (sums / drawn - means) / np.maximum(variances, 1e-12)
        t = np.maximum(t + np.clip(step, -_LARGEST_STEP / largest, _LARGEST_STEP / largest), 0.0)
    top = scores.max(-1)
    moment = (weights * np.exp(t[:, None] * (scores - top[:, None]))).sum(-1)
    out: Floats = -t * sums + drawn * (np.log(moment) + t * top)
    return out


def _subsets(both: Floats, scores: Floats, drawn: Floats, sums: Floats, steps: int) -> Floats:
    """Bound (1): -t X - v n + Σ_c N_c log(1 + exp(v + t s_c)) - log C(N, n), minimised."""
    total = both.sum(-1)
    t, v = np.zeros(len(both)), np.log(drawn / (total - drawn))
    largest = max(1.0, float(np.abs(scores).max()))
    for _ in range(steps):
        p = _expit(v[:, None] + t[:, None] * scores)
        missing_sum = sums - (both * p) @ scores
        missing_size = drawn - (both * p).sum(-1)
        curve = both * p * (1 - p)
        a, b, c = curve @ scores**2, curve @ scores, curve.sum(-1)
        determinant = np.maximum(a * c - b * b, 1e-12 * np.maximum(a * c, 1e-300))
        dt = (c * missing_sum - b * missing_size) / determinant
        dv = (a * missing_size - b * missing_sum) / determinant
        size = np.abs(dt) * largest + np.abs(dv)
        shrink = np.minimum(1.0, 2 * _LARGEST_STEP / np.maximum(size, 1e-300))
        t, v = np.maximum(t + shrink * dt, 0.0), v + shrink * dv
    tilt = v[:, None] + t[:, None] * scores
    p = _expit(tilt)
    size = (both * np.logaddexp(0.0, tilt)).sum(-1) - log_choose(total, drawn)
    out: Floats = size - t * sums - v * drawn + _log_mode((both * p * (1 - p)).sum(-1))
    return out


def _log_mode(variance: Floats) -> Floats:
    """Log of a bound on every probability of a sum of independent indicators, by its variance."""
    return np.minimum(0.0, np.log(_MODE) - 0.5 * np.log(np.maximum(variance, 1e-300)))


def _expit(x: Floats) -> Floats:
    out: Floats = 1 / (1 + np.exp(-np.clip(x, -700, 700)))
    return out
