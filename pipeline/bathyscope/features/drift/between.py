"""How much nights differ beyond their documents: a variance component between nights.

The same source on another night differs by more than a random choice of its documents: the news
have a topic, a crawl has an order. With three or more earlier nights this is estimated per test.
For a score with variance σ² among documents and means x̄_t in nights of n_t documents,

    M = Σ_t n_t (x̄_t - x̄)² / ((m - 1) σ²),   E M = 1 + J τ²,   n₀ = (N - Σ n_t² / N) / (m - 1)

(one-way analysis of variance, m nights). For log scores J = n₀ / σ², and τ is in their steps. For
the share of documents with a firing τ is an effect on its log odds and J = n₀ σ². τ² is pooled over
latents, each weighted by 1 / (1/J + τ²)², and M of a latent is drawn towards 1 + J τ² as by d₀
further nights, with d₀ from the spread of log M over latents (Smyth 2004, limma).

The series of a night have no others to borrow from: all of M counts as theirs, with m - 1 degrees
of freedom. Three or four nights then find next to nothing, and nothing else would hold the error:
three nights that agree by chance are no proof that nights do.

This is a model and not a proof: effects of nights are taken as t-distributed with d₀ + m - 1
degrees of freedom. It only raises the probabilities that the documents alone give.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import polygamma

Floats = NDArray[np.float64]

FEWEST_NIGHTS = 3
"""Earlier nights that an estimate between nights needs."""
FEWEST_FOR_SERIES = 5
"""Earlier nights with which the series of a night find more than the largest changes."""
UNKNOWN_PRIOR = 10.0
"""d₀ where too few latents tell it."""
LARGEST_PRIOR = 1000.0
# Documents with a firing that a night needs on average before a latent says something of τ.
_FEWEST_COUNTS = 5
# Of rarer ones M has few values, and the spread of its logarithm says nothing of nights.
_FEWEST_FOR_LOGS = 30
_FEWEST_LATENTS = 20
_ROUNDING = 1e-6


class NightSums:
    """Streaming sums over nights of one score of many latents."""

    def __init__(self, size: int) -> None:
        self.nights = np.zeros(size, np.int64)
        self.count, self.count_squares = np.zeros(size), np.zeros(size)
        self.sums, self.squares, self.within = np.zeros(size), np.zeros(size), np.zeros(size)

    def add(self, count: NDArray[Any], sums: NDArray[Any], squares: NDArray[Any]) -> None:
        """Add a night: documents, Σ score and Σ score² of each latent [latents]."""
        count = np.broadcast_to(np.asarray(count, np.float64), self.count.shape)
        seen = count > 0
        self.nights += seen
        self.count += count
        self.count_squares += count * count
        self.sums += sums
        self.squares += squares
        self.within += np.where(seen, sums * (sums / np.where(seen, count, 1)), 0.0)


class NightSpread(NamedTuple):
    """What nights add to documents, per latent."""

    tau: Floats
    """Size of a night's effect, on log odds or on log scores [latents]; the pooled one for latents
    that vary in no earlier night."""
    old_share: Floats
    """Σ n_t² / N²: how much of its square the mean of the earlier nights has [latents]."""
    degrees: Floats
    """Degrees of freedom of effects [latents]."""
    pooled: float
    """τ, the same for all latents."""
    informative: int
    """Latents that told it."""

    def of_difference(self) -> Floats:
        """Return the size of the effect on the difference of a night and its reference."""
        return self.tau * np.sqrt(1 + self.old_share)


def estimate_spread(nights: NightSums, *, unit: str, counts: Floats) -> NightSpread | None:
    """Return what nights add, or None where no latent was seen in three nights.

    `unit` is "odds" or "score"; `counts` are the documents with a firing per night [latents].
    """
    found = _analysis(nights, unit)
    if found is None:
        return None
    usable, m, ratio, weight, old_share = found
    telling = usable & (counts >= _FEWEST_COUNTS)
    tau2 = _pooled(ratio[telling], weight[telling])
    expected = 1 + weight * tau2
    often = usable & (counts >= _FEWEST_FOR_LOGS)
    if unit == "odds":
        # Silent documents count as much as others: J is about the rarer ones' number.
        often &= weight >= _FEWEST_FOR_LOGS
    prior = _prior(ratio[often] / expected[often], m[often])
    degrees: Floats = np.asarray(prior + m - 1.0, np.float64)
    posterior = (prior * expected + (m - 1) * ratio) / (prior + m - 1)
    tau = np.sqrt(np.where(usable, np.maximum(posterior - 1, 0.0) / weight, tau2))
    return NightSpread(tau, old_share, degrees, math.sqrt(tau2), int(telling.sum()))


def series_spread(nights: NightSums) -> NightSpread | None:
    """Return what nights add to each of a few log scores, from its own nights alone.

    None where none was seen in three nights.
    """
    found = _analysis(nights, "score")
    if found is None:
        return None
    usable, m, ratio, weight, old_share = found
    tau = np.sqrt(np.where(usable, np.maximum(ratio, 0.0) / weight, 0.0))
    degrees: Floats = np.asarray(m - 1.0, np.float64)
    return NightSpread(tau, old_share, degrees, math.nan, int(usable.sum()))


def _analysis(
    nights: NightSums, unit: str
) -> tuple[NDArray[np.bool_], NDArray[np.int64], Floats, Floats, Floats] | None:
    """Which latents say something, m, M, J and Σ n_t² / N² of each; None where none was seen."""
    enough = (nights.nights >= FEWEST_NIGHTS) & (nights.count > nights.nights)
    if not enough.any():
        return None
    m = np.where(enough, nights.nights, 2)
    count = np.where(enough, nights.count, 2.0)
    among = (nights.squares - nights.within) / np.maximum(count - m, 1)
    between = (nights.within - nights.sums**2 / count) / (m - 1)
    usable = enough & (among > 1e-12)
    among = np.where(usable, among, 1.0)
    ratio = np.where(usable, between / among, 1.0)
    old_share = np.where(usable, nights.count_squares / count**2, 1.0)
    per_night = np.where(usable, count * (1 - old_share) / (m - 1), 1.0)
    weight = per_night * (among if unit == "odds" else 1 / among)
    return usable, m, ratio, weight, old_share


def _pooled(ratio: Floats, weight: Floats) -> float:
    """τ² of all latents together; 0 where nights differ no more than their documents."""
    if len(ratio) < _FEWEST_LATENTS:
        return 0.0
    tau2 = 0.0
    for _ in range(20):
        certainty = 1 / (1 / weight + tau2) ** 2
        tau2 = max(0.0, float((certainty * (ratio - 1) / weight).sum() / certainty.sum()))
    return tau2


def _prior(ratio: Floats, nights: NDArray[Any]) -> float:
    """d₀ from the variance of log M: trigamma((m - 1) / 2) + trigamma(d₀ / 2)."""
    # Nights of equal counts have M = 0 up to rounding, whose logarithm would be all there is.
    positive = ratio > _ROUNDING
    if positive.sum() < _FEWEST_LATENTS:
        return UNKNOWN_PRIOR
    logs = np.log(ratio[positive])
    more = float(logs.var()) - float(polygamma(1, (nights[positive] - 1) / 2).mean())
    if more <= float(polygamma(1, LARGEST_PRIOR / 2)):
        return LARGEST_PRIOR
    low, high = 0.1, LARGEST_PRIOR / 2
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if float(polygamma(1, middle)) > more else (low, middle)
    return 2 * low
