"""How large a change has to be to be found: the power of the test of documents.

A latent of density p fires in a share q = p · tokens / firings of the documents, `tokens` being the
length of a document and `firings` how often the latent fires in a document that has it. In the
night the share is q · ratio. The numbers of documents with a firing are then binomial, and the
power is the sum over both, without an approximation. The density test can only add to it, and a
variance between nights takes away from it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from bathyscope.features.drift.changes import Floors
from bathyscope.features.drift.compare import LATENT_SHARE
from bathyscope.features.drift.evidence import TESTS
from bathyscope.features.drift.tails import hypergeometric_tail

Floats = NDArray[np.float64]

# Quantiles of the reference's count that stand for its law.
_NODES = 64


class Design(NamedTuple):
    """What the power of a comparison depends on, beside the change."""

    documents: int
    """Documents of the night."""
    reference_documents: int
    """Documents of all earlier nights together."""
    num_latents: int
    tokens: float = 400.0
    """Tokens of a document."""
    firings: float = 4.0
    """Firings of a latent in a document in which it fires."""
    error: float = 1e-4
    """Family-wise error of the night."""


def power(design: Design, density: float, ratio: float, *, floors: Floors | None = None) -> float:
    """Return the probability that a latent of `density` is reported, its share `ratio` times.

    `ratio` 0 is a latent that has vanished. Raises `ValueError` for a share above 1 or a design
    without documents.
    """
    share = _share(design, density, ratio)
    new, old = design.documents, design.reference_documents
    level = math.log(design.error * LATENT_SHARE / (2 * len(TESTS) * design.num_latents))
    quantiles = (np.arange(_NODES) + 0.5) / _NODES
    fired = binom.ppf(quantiles, old, share)
    floor = (floors or Floors()).density_ratio
    bound = (fired + 0.5) / (old + 1.0) * (new + 1.0)
    if ratio >= 1:
        critical = np.maximum(_critical(fired, new, old, level, more=True), bound * floor - 0.5)
        found = binom.sf(np.ceil(critical) - 1, new, min(share * ratio, 1.0))
    else:
        critical = np.minimum(_critical(fired, new, old, level, more=False), bound / floor - 0.5)
        found = binom.cdf(np.floor(critical), new, share * ratio)
    return float(found.mean())


def detectable_ratio(
    design: Design, density: float, *, wanted: float = 0.9, floors: Floors | None = None
) -> float:
    """Return the smallest increase that is found with probability `wanted`; NaN if there is none.

    Searched up to the ratio at which every document has the latent.
    """
    highest = 1 / _share(design, density, 1.0)
    if power(design, density, highest, floors=floors) < wanted:
        return math.nan
    low, high = 1.0, highest
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        found = power(design, density, middle, floors=floors) >= wanted
        low, high = (low, middle) if found else (middle, high)
    return high


def _share(design: Design, density: float, ratio: float) -> float:
    share = density * design.tokens / design.firings
    if min(design.documents, design.reference_documents, design.num_latents) < 1:
        raise ValueError(f"{design}: wanted documents on both sides, and latents")
    if not (density > 0 and ratio >= 0 and max(share, share * ratio) <= 1 + 1e-9):
        raise ValueError(
            f"a density of {density} and {ratio} times it are shares of {share:.3g} and "
            f"{share * ratio:.3g} of documents: wanted shares from 0 to 1"
        )
    return share


def _critical(fired: Floats, new: int, old: int, level: float, *, more: bool) -> Floats:
    """The fewest documents of the night that are credibly more, or the most that are fewer.

    By bisection; one above all documents, or -1, where no number is.
    """
    low, high = np.full(len(fired), -1.0), np.full(len(fired), new + 1.0)
    while (high - low > 1).any():
        moving = high - low > 1
        middle = np.floor((low + high) / 2)
        # Fewer is counted from above, so that both are a search for the smallest one.
        count = middle if more else new - middle
        both = count + fired
        tail = hypergeometric_tail(
            count if more else fired, both, new if more else old, float(new + old)
        )
        low = np.where(moving & (tail > level), middle, low)
        high = np.where(moving & (tail <= level), middle, high)
    return high if more else new - high
