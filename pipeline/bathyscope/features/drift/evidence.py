"""Probabilities of what is seen if nothing has changed: three tests per latent, one per series.

| test | given | what is counted |
| --- | --- | --- |
| documents | all documents | those in which the latent fires (Fisher's exact test) |
| density | documents in which it fires | sum of classes of its density there, octaves |
| activation | documents in which it fires | sum of log scores of its mean activation |

Under exchangeable documents all have proved tails (`tails`). With three or more earlier nights a
variance between nights is allowed for (`between`), which is a model.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bathyscope.features.drift.between import NightSpread
from bathyscope.features.drift.night_effects import odds_tail, shifted_tail
from bathyscope.features.drift.reference import CLASS_SCORES, Reference
from bathyscope.features.drift.tails import class_tail, hypergeometric_tail, moment_tail
from bathyscope.features.drift.totals import Moments, Totals

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TESTS = ("documents", "density", "activation")
"""The tests of a latent."""
# Sums nearer to their expectation are not tested: their probability is taken as 1, which is safe.
_WORTH_TESTING = 3.0
_CHUNK = 1 << 15


class Evidence(NamedTuple):
    """Log probabilities of one test."""

    log_p: Floats
    """Natural logarithm, at most 0 [latents]."""
    direction: NDArray[np.int8]
    """1 for more than expected, -1 for less [latents]."""


def latent_evidence(night: Totals, reference: Reference, *, level: float) -> dict[str, Evidence]:
    """Return the evidence of each of `TESTS` for all latents.

    Only probabilities below `level` have what nights add: no other is ever significant at it.
    """
    old = reference.totals
    assert old is not None, "compare checks that there is a reference"
    counts = night.firing_documents(), old.firing_documents()
    found = {
        "documents": _documents(counts, night.documents, old.documents),
        "density": _density(counts, night, old),
        "activation": _moments(counts, night.activation, old.activation),
    }
    spreads = reference.spreads()
    if "documents" in spreads:
        documents = (night.documents, old.documents)
        found["documents"] = _with_odds(
            found["documents"], spreads["documents"], counts, documents, level
        )
    sums = {
        "density": tuple(_class_sums(totals) for totals in (night, old)),
        "activation": tuple(_sums(totals.activation) for totals in (night, old)),
    }
    for name, both in sums.items():
        if name in spreads:
            found[name] = _with_shift(found[name], spreads[name], counts, both, level)
    return {name: _two_sided(evidence) for name, evidence in found.items()}


def series_evidence(night: Totals, reference: Reference, *, level: float) -> Evidence:
    """Return the evidence of the series of `SERIES`, in their order; `level` as for latents."""
    old = reference.totals
    assert old is not None, "compare checks that there is a reference"
    counts, moments = (night.series_documents, old.series_documents), (night.series, old.series)
    found = _moments(counts, *moments)
    spread = reference.spread_of_series()
    if spread is not None:
        found = _with_shift(found, spread, counts, tuple(_sums(side) for side in moments), level)
    return _two_sided(found)


def _two_sided(evidence: Evidence) -> Evidence:
    """The other side's probability is bounded by 1 only, so both are twice the smaller one."""
    return evidence._replace(log_p=np.minimum(evidence.log_p + math.log(2), 0.0))


def _with_odds(
    evidence: Evidence,
    spread: NightSpread,
    hits: tuple[NDArray[Any], NDArray[Any]],
    documents: tuple[int, int],
    level: float,
) -> Evidence:
    """Evidence about hits that allows for a night's effect on their log odds."""
    chosen = np.flatnonzero(evidence.log_p < math.log(level))
    up = evidence.direction[chosen] > 0
    first, second = (side[chosen].astype(np.float64) for side in hits)
    # Fewer hits of the night are more of its reference, by the same odds ratio.
    drawn = np.where(up, *documents).astype(np.float64)
    total = np.full(len(chosen), float(sum(documents)))
    table = np.where(up, first, second), first + second, drawn, total
    log_p = evidence.log_p.copy()
    tau = spread.of_difference()[chosen]
    log_p[chosen] = odds_tail(log_p[chosen], table, tau, spread.degrees[chosen])
    return evidence._replace(log_p=log_p)


def _class_sums(totals: Totals) -> tuple[Ints, Ints]:
    """Sums of classes and of their squares over the documents in which each latent fires."""
    return totals.classes @ CLASS_SCORES, totals.classes @ CLASS_SCORES**2


def _sums(moments: Moments) -> tuple[Ints, Ints]:
    return moments.sums, moments.squares


def _with_shift(
    evidence: Evidence,
    spread: NightSpread,
    counts: tuple[Ints, Ints],
    sums: tuple[tuple[Ints, Ints], ...],
    level: float,
) -> Evidence:
    """Evidence about log scores that allows for a night's effect on their mean."""
    chosen = np.flatnonzero(evidence.log_p < math.log(level))
    n, m = (count[chosen].astype(np.float64) for count in counts)
    means = [side[chosen] / count for (side, _), count in zip(sums, (n, m), strict=True)]
    squares = sum(side[chosen].astype(np.float64) for _, side in sums)
    # Within the sides: a change between them is not what documents differ by.
    within = np.maximum(squares - n * means[0] ** 2 - m * means[1] ** 2, 1.0) / (n + m)
    omega = spread.of_difference()[chosen] / np.sqrt(within * (1 / n + 1 / m))
    log_p = evidence.log_p.copy()
    log_p[chosen] = shifted_tail(log_p[chosen], omega, spread.degrees[chosen])
    return evidence._replace(log_p=log_p)


def _documents(counts: tuple[Ints, Ints], new: int, old: int) -> Evidence:
    fired = counts[0] + counts[1]
    more = hypergeometric_tail(counts[0], fired, new, new + old)
    less = hypergeometric_tail(counts[1], fired, old, new + old)
    return Evidence(np.minimum(more, less), np.where(more <= less, 1, -1).astype(np.int8))


def _density(counts: tuple[Ints, Ints], night: Totals, old: Totals) -> Evidence:
    """Bounds for latents whose sum of classes is three standard deviations off, or more."""
    (new_sums, new_squares), (old_sums, old_squares) = (_class_sums(both) for both in (night, old))
    n, total = counts[0].astype(np.float64), np.maximum(counts[0] + counts[1], 1).astype(np.float64)
    mean = (new_sums + old_sums) / total
    deviation = new_sums - n * mean
    # The variance of a sum over a random subset, which is exact.
    among = np.maximum((new_squares + old_squares) / total - mean**2, 0.0)
    variance = n * (total - n) / np.maximum(total - 1, 1) * among
    worth = np.flatnonzero(np.abs(deviation) > _WORTH_TESTING * np.sqrt(variance) + 1e-9)
    log_p = np.zeros(night.num_latents)
    for start in range(0, len(worth), _CHUNK):
        part = worth[start : start + _CHUNK]
        new, ref = night.classes[part], old.classes[part]
        up = (deviation[part] > 0)[:, None]
        # A low sum of the night is a high one of its reference.
        first, second = np.where(up, new, ref), np.where(up, ref, new)
        log_p[part] = class_tail(first, second, CLASS_SCORES)
    return Evidence(log_p, np.where(deviation > 0, 1, -1).astype(np.int8))


def _moments(counts: tuple[Ints, Ints], new: Moments, old: Moments) -> Evidence:
    n = counts[0].astype(np.float64)
    total = np.maximum((counts[0] + counts[1]).astype(np.float64), 1.0)
    mean = (new.sums + old.sums) / total
    squares = np.maximum((new.squares + old.squares) - total * mean**2, 0.0)
    deviation = new.sums - n * mean
    below = mean - np.minimum(new.lowest, old.lowest)
    above = np.maximum(new.highest, old.highest) - mean
    up = deviation > 0
    ranges = np.where(up, below, above), np.where(up, above, below)
    # Downwards the night's scores are mirrored, so its own n stays.
    log_p = moment_tail(np.abs(deviation), n, total, squares, *ranges)
    return Evidence(log_p, np.where(up, 1, -1).astype(np.int8))
