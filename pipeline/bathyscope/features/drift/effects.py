"""How large a change is, with an interval: what the floor and the order of a report rest on.

Two measures of a latent's density. The plain one is the ratio estimator over documents as clusters
(Cochran 1977, section 6.3; linearised variance)

    p = Σ f / Σ n,   var p = D / (D - 1) · Σ (f - p n)² / (Σ n)²

which is what the density is, and which one document can dominate. The typical one cannot be:

    share of documents in which it fires  x  geometric mean of its density in those

Its ratio between two nights stays 1 when documents only become longer: a rare latent then fires in
more documents, each with a lower density.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bathyscope.features.drift.reference import CLASS_SCORES
from bathyscope.features.drift.scores import STEPS_PER_OCTAVE
from bathyscope.features.drift.totals import Moments, Totals

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Of a normal variable, 95 % two-sided. Intervals rank and describe; they do not decide.
_TWO_SIDED = 1.959964
_OCTAVE = math.log(2)


class LogRatios(NamedTuple):
    """Natural logarithms of ratios, night over reference [latents]."""

    estimates: Floats
    """log ratio; finite, also for new and vanished latents."""
    errors: Floats
    """Standard errors."""

    def low(self) -> Floats:
        """Return the lower ends of 95 % intervals."""
        return self.estimates - _TWO_SIDED * self.errors

    def high(self) -> Floats:
        """Return the upper ends."""
        return self.estimates + _TWO_SIDED * self.errors

    def credible(self) -> Floats:
        """Return the end of each interval that is nearer to no change, as a size; 0 inside."""
        return np.maximum(np.abs(self.estimates) - _TWO_SIDED * self.errors, 0.0)


def densities(totals: Totals, latents: Ints) -> tuple[Floats, Floats]:
    """Return p = Σ f / Σ n of latents and its standard error; NaN error for a single document."""
    tokens, documents = float(totals.tokens), totals.documents
    if not documents:
        raise ValueError("the night has no documents: nothing to compare")
    p = totals.firings[latents] / tokens
    residual = (
        totals.firing_squares[latents]
        - 2 * p * totals.token_firings[latents]
        + p * p * float(totals.token_squares)
    )
    factor = documents / (documents - 1) if documents > 1 else math.nan
    return p, np.sqrt(factor * np.maximum(residual, 0.0)) / tokens


def typical_ratios(night: Totals, reference: Totals, latents: Ints) -> LogRatios:
    """Return the ratios of the typical density of latents.

    Shares have half a document added to what fires and half to what does not, so that a latent
    that is new or gone has a finite ratio with a wide interval.
    """
    new, old = night.classes[latents], reference.classes[latents]
    estimates, variances = np.zeros(len(latents)), np.zeros(len(latents))
    for sign, classes, documents in ((1, new, night.documents), (-1, old, reference.documents)):
        fired = classes.sum(1) + 0.5
        estimates += sign * np.log(fired / (documents + 1.0))
        variances += (1 - fired / (documents + 1.0)) / fired
    means, spreads, counts = _octaves(new, old)
    estimates += _OCTAVE * (means[0] - means[1])
    variances += _OCTAVE**2 * spreads * (1 / counts[0] + 1 / counts[1])
    return LogRatios(estimates, np.sqrt(variances))


def activation_ratios(
    night: Moments, reference: Moments, counts: tuple[Ints, Ints], places: Ints
) -> LogRatios:
    """Return the ratios of geometric means over documents, from log scores at some places.

    `counts` are the documents of all places on both sides; both must be above 0 where asked.
    """
    n, m = (count[places].astype(np.float64) for count in counts)
    means, within = [], np.zeros(len(places))
    for moments, count in ((night, n), (reference, m)):
        means.append(moments.sums[places] / count)
        within += moments.squares[places] - count * means[-1] ** 2
    variance = (np.maximum(within, 0.0) + 1) / np.maximum(n + m - 2, 1)
    step = _OCTAVE / STEPS_PER_OCTAVE
    errors = step * np.sqrt(variance * (1 / n + 1 / m))
    return LogRatios(step * (means[0] - means[1]), errors)


def unexplained(totals: Totals) -> tuple[float, float]:
    """Return the pooled FVU = Σ errors / Σ norms and its standard error over documents.

    NaN where nothing was reconstructed.
    """
    wide, documents = totals.wide, totals.documents
    if not wide["norms"] or documents < 2:
        return math.nan, math.nan
    # Divided as Python integers: the sums pass float64's exact range, their ratios do not.
    fvu = wide["errors"] / wide["norms"]
    squares = wide["norms"] ** 2
    residual = (
        wide["error_squares"] / squares
        - 2 * fvu * (wide["error_norms"] / squares)
        + fvu * fvu * (wide["norm_squares"] / squares)
    )
    return fvu, math.sqrt(max(residual, 0.0) * documents / (documents - 1))


def _octaves(
    new: NDArray[np.int32], old: NDArray[np.int32]
) -> tuple[tuple[Floats, Floats], Floats, tuple[Floats, Floats]]:
    """Mean class on both sides (equal where a side is silent), variance within, counts."""
    scores = CLASS_SCORES.astype(np.float64)
    counts = [np.maximum(classes.sum(1), 1.0) for classes in (new, old)]
    means = [classes @ scores / count for classes, count in zip((new, old), counts, strict=True)]
    silent = (new.sum(1) == 0) | (old.sum(1) == 0)
    within = (new + old) @ scores**2 - sum(
        count * mean**2 for count, mean in zip(counts, means, strict=True)
    )
    # A class is an octave wide, which alone is a variance of 1/12.
    variance = np.maximum(within, 0.0) / np.maximum(counts[0] + counts[1] - 2, 1) + 1 / 12
    first, second = (np.where(silent, 0.0, mean) for mean in means)
    return (first, second), variance, (counts[0], counts[1])
