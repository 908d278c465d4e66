"""Which latents of two dictionaries respond to the same rows: one-sided and bijective matches.

The one-sided score of a latent is its largest Pearson correlation with any latent of the other
dictionary (MPPC). Several latents may claim the same partner, and a mixture of two counts for
both, so it overstates. The bijective match gives each latent one partner at most, with the sum of
correlations largest. Both are on rows of one text, after the same positions were left out.

The partner was chosen as the best of many, so its correlation on the same rows is too high where
latents fire seldom: choose on some rows and pass `LatentPairs` of others to `rescored`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bathyscope.studies.assignment import assign
from bathyscope.studies.latent_pairs import LatentPairs, Side, pearson
from bathyscope.studies.sparse_rows import Floats, Integers, among_largest, rows_of_entries


@dataclass(frozen=True)
class Candidates:
    """Pairs of latents that may be matched, with correlations above 0."""

    in_a: Integers
    """Latent of the first dictionary [pairs]."""
    in_b: Integers
    """Latent of the second dictionary [pairs]."""
    correlations: Floats
    """Pearson's r, above 0 [pairs]."""
    usable_a: NDArray[np.bool_]
    """Latents that fire often enough and vary [latents of a]."""
    usable_b: NDArray[np.bool_]
    """The same [latents of b]."""
    firings_a: Integers
    """Rows in which a latent of the first dictionary is active [latents of a]."""
    num_dropped: int
    """Pairs above 0 that are not among the largest of either latent, or whose sums were pruned."""


@dataclass(frozen=True)
class LatentMatch:
    """Partners of the first dictionary's latents. Latents that were left out score NaN."""

    best_partners: Integers
    """Latent with the largest correlation, taken or not [latents of a]; -1 without one."""
    best: Floats
    """Its correlation, the one-sided score; 0 without one above 0."""
    partners: Integers
    """Latent in the bijective match [latents of a]; -1 without one."""
    matched: Floats
    """Its correlation; 0 without a partner."""
    firings: Integers
    """Rows in which each latent is active [latents of a]."""
    left_out: tuple[int, int]
    """Latents of a and of b that fire too seldom or do not vary."""
    num_dropped: int
    """Pairs above 0 that the assignment could not choose."""
    num_auctioned: int
    """Latents whose partner an auction chose: within ε of the best sum per latent."""

    @property
    def exact(self) -> bool:
        """Whether no assignment has a larger sum of correlations."""
        return self.num_dropped == 0 and self.num_auctioned == 0

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Latents that were not left out [latents of a]."""
        return ~np.isnan(self.matched)

    def summary(self) -> dict[str, float]:
        """Means and shares over the latents of a that were not left out; NaN without any.

        `overstated` is the one-sided mean less the bijective one. `num_best_partners` counts the
        different latents of b that are somebody's best: far fewer than `num_latents` means that
        many claim the same.
        """
        some = self.usable
        one_sided, matched = self.best[some], self.matched[some]
        distinct = np.unique(self.best_partners[self.best_partners >= 0])
        return {
            "num_latents": float(some.sum()),
            "num_matched": float((self.partners >= 0).sum()),
            "num_best_partners": float(len(distinct)),
            "left_out_a": float(self.left_out[0]),
            "left_out_b": float(self.left_out[1]),
            **figures("matched", matched, self.firings[some]),
            **figures("one_sided", one_sided, self.firings[some]),
            "overstated": _mean(one_sided) - _mean(matched),
            "exact": float(self.exact),
        }


def candidates(
    pairs: LatentPairs, *, min_firings: int = 10, per_latent: int | None = 16
) -> Candidates:
    """Return the `per_latent` largest correlations of each latent of either dictionary.

    None keeps all above 0. Latents with fewer than `min_firings` firings are left out: a few
    rows decide nothing.
    """
    if min_firings < 1 or (per_latent is not None and per_latent < 1):
        raise ValueError(
            f"min_firings {min_firings} and per_latent {per_latent}: wanted at least 1"
        )
    if pairs.num_rows == 0:
        raise ValueError("no rows were seen: a match needs rows of both models")
    products = pairs.products
    in_a, in_b = rows_of_entries(products), products.indices.astype(np.int64)
    correlations = pearson(pairs.a, pairs.b, pairs.num_rows, products.data, in_a, in_b)
    return best_pairs(
        pairs.a,
        pairs.b,
        (in_a, in_b, correlations),
        num_rows=pairs.num_rows,
        min_firings=min_firings,
        per_latent=per_latent,
        num_dropped=pairs.num_pruned,
    )


def best_pairs(
    a: Side,
    b: Side,
    pairs: tuple[Integers, Integers, Floats],
    *,
    num_rows: int,
    min_firings: int,
    per_latent: int | None,
    num_dropped: int = 0,
) -> Candidates:
    """Return the largest of some pairs (in_a, in_b, correlations) whose latents are usable."""
    in_a, in_b, correlations = pairs
    usable_a, usable_b = a.usable(num_rows, min_firings), b.usable(num_rows, min_firings)
    kept = usable_a[in_a] & usable_b[in_b] & (correlations > 0)
    in_a, in_b, correlations = in_a[kept], in_b[kept], np.minimum(correlations[kept], 1.0)
    if per_latent is not None:
        largest = among_largest(in_a, correlations, per_latent)
        largest |= among_largest(in_b, correlations, per_latent)
        num_dropped += int((~largest).sum())
        in_a, in_b, correlations = in_a[largest], in_b[largest], correlations[largest]
    return Candidates(in_a, in_b, correlations, usable_a, usable_b, a.firings, num_dropped)


def match_latents(found: Candidates) -> LatentMatch:
    """Return both matches of the candidates.

    The one-sided one is exact. The bijective one is exact when `LatentMatch.exact` says so.
    """
    num_a, num_b = len(found.usable_a), len(found.usable_b)
    made = assign(found.in_a, found.in_b, found.correlations, num_rows=num_a, num_columns=num_b)
    best_partners = np.full(num_a, -1, dtype=np.int64)
    best = np.zeros(num_a)
    first = among_largest(found.in_a, found.correlations, 1)
    best_partners[found.in_a[first]] = found.in_b[first]
    best[found.in_a[first]] = found.correlations[first]
    return LatentMatch(
        best_partners=best_partners,
        best=np.where(found.usable_a, best, np.nan),
        partners=made.partners,
        matched=np.where(found.usable_a, made.scores, np.nan),
        firings=found.firings_a,
        left_out=(int((~found.usable_a).sum()), int((~found.usable_b).sum())),
        num_dropped=found.num_dropped,
        num_auctioned=made.num_auctioned,
    )


def rescored(match: LatentMatch, pairs: LatentPairs) -> LatentMatch:
    """Return the same partners with their correlations, below 0 too, on the rows of `pairs`.

    For rows that had no part in the choice, and for `jackknife` with the partners held. A pair
    of which one latent does not vary in these rows scores 0.
    """
    matched, best = match.matched.copy(), match.best.copy()
    for scores, partners in ((matched, match.partners), (best, match.best_partners)):
        paired = np.flatnonzero(partners >= 0)
        scores[paired] = np.nan_to_num(pairs.correlations(paired, partners[paired]), nan=0.0)
    return replace(match, matched=matched, best=best, firings=pairs.a.firings)


def figures(name: str, scores: Floats, firings: Integers) -> dict[str, float]:
    """Mean of scores [latents], mean weighted by firings, shares above 0.5 and 0.7, by name."""
    total = float(firings.sum())
    return {
        f"{name}_mean": _mean(scores),
        f"{name}_mean_by_firing": float(scores @ firings) / total if total else math.nan,
        f"{name}_share_above_0.5": _mean(scores > 0.5),
        f"{name}_share_above_0.7": _mean(scores > 0.7),
    }


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else math.nan
