"""Which latents fire together more than chance: edges of a graph that are facts.

For two latents that fire in n_i and n_j of N rows, and c of them together, φ is their correlation,

    φ = (c/N - p_i p_j) / √(p_i (1 - p_i) p_j (1 - p_j)),    p = n / N

Whether c exceeds independence is tested by clusters of documents. What cluster b adds to
c - N p_i p_j, with the estimates of p accounted for, is

    s_b = c_b - p_i n_jb - p_j n_ib + p_i p_j N_b,    Σ s_b = c - N p_i p_j = S
    t   = S / √(B / (B - 1) · (Σ s_b² - S² / B))

against Student's t of B - 1 degrees, one-sided. A pair that fires together in m of many clusters
has t near √m at most, however often it does. Σ s_b² is had from clusters where both fire, and from
sums over all of them:

    Σ s_b² = Σ c_b² - 2 Σ c_b u_b + Σ u_b²,    u_b = p_i n_jb + p_j n_ib - p_i p_j N_b

Of all pairs of latents that fire often enough, fired together or not, those are edges whose p is
below the bound of Benjamini and Yekutieli 2001, which holds under any dependence between tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma
from scipy.stats import t as student

from bathyscope.studies.firings import Firings, PairCounts, pair_counts
from bathyscope.studies.graph_modularity import Graph
from bathyscope.studies.sparse_rows import Floats, Integers, among_largest

MIN_FIRINGS = 10
"""Latents that fire in fewer rows have no edges."""
MIN_TOGETHER = 5
"""Pairs that fire together in fewer rows are no edges."""
# Pairs whose counts of all clusters are multiplied at once, B values each.
_CHUNK = 1 << 16
_ALIKE = 1e-12


class Tested(NamedTuple):
    """Pairs of latents that fire together more often than independent ones, and how surely."""

    left: Integers
    """Lower latent [pairs]."""
    right: Integers
    """Higher latent [pairs]."""
    phi: Floats
    """Above 0 [pairs]."""
    t: Floats
    """Above 0 [pairs]."""
    num_latents: int
    num_usable: int
    """Latents that fire often enough."""
    num_clusters: int
    """B."""

    @property
    def num_possible(self) -> int:
        """Pairs of usable latents, which is how many tests there are."""
        return self.num_usable * (self.num_usable - 1) // 2


class CoFiring:
    """Counts of pairs by cluster, tested over all clusters or some of them."""

    def __init__(self, firings: Firings) -> None:
        self.firings = firings
        self._counted = [_often(found) for found in pair_counts(firings)]

    def tested(self, neighbours: int, clusters: NDArray[np.bool_] | None = None) -> Tested:
        """Return the pairs with t above 0, the `neighbours` largest t of either latent.

        `clusters` [clusters] says which rows count; None takes all.
        """
        keep = np.ones(self.firings.num_clusters, bool) if clusters is None else clusters
        sums = _Sums(self.firings, keep)
        parts = [sums.tested(counted) for counted in self._counted if keep.sum() > 1]
        return nearest(parts, neighbours, sums.firings, int(keep.sum()))


Columns = tuple[Integers, Integers, Floats, Floats]
"""Lower and higher latents, φ and t of some pairs."""


def nearest(
    parts: Sequence[Columns], neighbours: int, firings: Floats, num_clusters: int
) -> Tested:
    """Return the pairs that are among the `neighbours` of largest t of either latent.

    `firings` [latents] are the rows in which each fires.
    """
    none = np.zeros(0, dtype=np.int64)
    left = np.concatenate([none, *(part[0] for part in parts)])
    right = np.concatenate([none, *(part[1] for part in parts)])
    phi = np.concatenate([none, *(part[2] for part in parts)], dtype=np.float64)
    t = np.concatenate([none, *(part[3] for part in parts)], dtype=np.float64)
    kept = among_largest(left, t, neighbours) | among_largest(right, t, neighbours)
    usable = int((firings >= MIN_FIRINGS).sum())
    found = (left[kept], right[kept], phi[kept], t[kept])
    return Tested(*found, len(firings), usable, num_clusters)


class _Sums:
    """Sums over the clusters that count."""

    def __init__(self, firings: Firings, keep: NDArray[np.bool_]) -> None:
        self.keep, self.counts = keep, firings.counts * keep[:, None]
        self.rows = firings.rows * keep
        self.firings = self.counts.sum(0)
        self.p = self.firings / max(self.rows.sum(), 1.0)
        self.squares = (self.counts**2).sum(0)
        self.with_rows = self.rows @ self.counts

    def tested(self, counted: PairCounts) -> Columns:
        """Pairs that count, with φ and t."""
        together = counted.sums(counted.counts * self.keep[counted.cluster])
        p, q = self.p[counted.left], self.p[counted.right]
        often = np.minimum(self.firings[counted.left], self.firings[counted.right])
        more = together > p * q * self.rows.sum()
        some = np.flatnonzero(more & (together >= MIN_TOGETHER) & (often >= MIN_FIRINGS))
        if not len(some):
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
        return self._scores(counted.where(some), together[some])

    def _scores(self, counted: PairCounts, together: Floats) -> Columns:
        num = float(self.rows.sum())
        left, right = counted.left, counted.right
        p, q = self.p[left], self.p[right]
        excess = together - num * p * q
        squares = self._squares(counted)
        b = int(self.keep.sum())
        # Clusters that are all alike up to rounding: as sure as can be told.
        varied = np.maximum(squares - excess**2 / b, _ALIKE * squares)
        with np.errstate(divide="ignore", invalid="ignore"):
            phi = excess / num / np.sqrt(p * (1 - p) * q * (1 - q))
            t = excess / np.sqrt(varied * b / (b - 1))
        # A latent that fires in every row goes with no other.
        some = np.isfinite(phi) & np.isfinite(t)
        return left[some], right[some], phi[some], t[some]

    def _squares(self, counted: PairCounts) -> Floats:
        """Σ s_b² [pairs]."""
        left, right, b = counted.left, counted.right, counted.cluster
        p, q = self.p[left], self.p[right]
        lengths = counted.lengths()
        of_left, of_right = np.repeat(left, lengths), np.repeat(right, lengths)
        u = np.repeat(p, lengths) * self.counts[b, of_right]
        u += np.repeat(q, lengths) * self.counts[b, of_left]
        u -= np.repeat(p * q, lengths) * self.rows[b]
        c = counted.counts * self.keep[b]
        total = counted.sums(c * (c - 2 * u))
        total += p**2 * self.squares[right] + q**2 * self.squares[left]
        total += (p * q) ** 2 * float((self.rows**2).sum()) + 2 * p * q * self._products(counted)
        total -= 2 * p * q * (p * self.with_rows[right] + q * self.with_rows[left])
        return np.asarray(np.maximum(total, 0.0), dtype=np.float64)

    def _products(self, counted: PairCounts) -> Floats:
        """Σ_b n_ib n_jb [pairs]."""
        by_latent = np.ascontiguousarray(self.counts.T)
        found = np.zeros(len(counted.left))
        for start in range(0, len(found), _CHUNK):
            some = slice(start, start + _CHUNK)
            a, b = by_latent[counted.left[some]], by_latent[counted.right[some]]
            found[some] = np.einsum("pb,pb->p", a, b)
        return found


def _often(counted: PairCounts) -> PairCounts:
    return counted.where(np.flatnonzero(counted.sums(counted.counts) >= MIN_TOGETHER))


def significant(tested: Tested, *, rate: float) -> Graph:
    """Return the pairs that are no chance as a graph with the weights φ.

    Of its edges a share of `rate` at most is false on average. Pairs that are not among the
    strongest of either latent count as tests that failed, which errs on the safe side.
    """
    if tested.num_clusters < 2 or not len(tested.t):
        return _graph(tested, np.zeros(0, dtype=np.int64))
    p = student.sf(tested.t, tested.num_clusters - 1)
    bound = false_discovery_bound(p, tested.num_possible, rate)
    return _graph(tested, np.flatnonzero(p <= bound))


def strongest(tested: Tested, num_edges: int) -> Graph:
    """Return the pairs of largest t as a graph: a null model with as many edges, or fewer."""
    order = np.argsort(-tested.t, kind="stable")[:num_edges]
    return _graph(tested, np.sort(order))


def false_discovery_bound(p: Floats, num_tests: int, rate: float) -> float:
    """Return the largest p that counts, by Benjamini and Yekutieli; -1 where none does.

    The r-th smallest p counts where p ≤ r · rate / (m Σ_{i≤m} 1/i). `p` may leave out large ones of
    the m = `num_tests`.
    """
    if not 0 < rate < 1 or len(p) > num_tests:
        raise ValueError(
            f"rate {rate} and {len(p)} of {num_tests} tests: wanted a rate between 0 and 1 and at "
            "least as many tests as p"
        )
    if not len(p):
        return -1.0
    harmonic = float(digamma(num_tests + 1)) - float(digamma(1))
    ordered = np.sort(p)
    allowed = np.arange(1, len(p) + 1) * rate / (num_tests * harmonic)
    passed = np.flatnonzero(ordered <= allowed)
    return float(ordered[passed[-1]]) if len(passed) else -1.0


def _graph(tested: Tested, some: Integers) -> Graph:
    return Graph(tested.num_latents, tested.left[some], tested.right[some], tested.phi[some])
