"""Which latents fire in which rows, and how often two of them fire in one row, by cluster.

A cluster is a run of whole documents: rows of one document are alike, so that only what comes back
in many clusters is evidence. Pairs are counted where both latents fire, for a span of latents at a
time, and nothing is ever [rows, latents] or [latents, latents].
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from bathyscope.metrics.finite import require_finite
from bathyscope.studies.sparse_rows import Floats, Integers

# Firings of two latents in one row that are sorted at once, 8 bytes each.
_CHUNK_PAIRS = 1 << 25


class Firings:
    """The latents that fire in some rows.

    `latents` [rows, slots] with -1 in unused slots, `clusters` [rows] from 0. Raises `ValueError`
    for other shapes, latents that are not of the dictionary, or one that comes twice in a row.
    """

    def __init__(self, latents: Integers, clusters: Integers, num_latents: int) -> None:
        if latents.ndim != 2 or clusters.shape != latents.shape[:1]:
            raise ValueError(
                f"latents are {list(latents.shape)} and clusters {list(clusters.shape)}: wanted "
                "[rows, slots] and [rows]"
            )
        if latents.size and not -1 <= latents.min() <= latents.max() < num_latents:
            raise ValueError(
                f"latents run from {latents.min()} to {latents.max()}: wanted -1 to "
                f"{num_latents - 1}"
            )
        self.num_latents = num_latents
        self.clusters = clusters.astype(np.int64)
        # In order, so that each pair of a row is met as (lower, higher).
        self.latents = np.sort(latents.astype(np.int64), axis=1)
        twice = (self.latents[:, 1:] == self.latents[:, :-1]) & (self.latents[:, 1:] >= 0)
        if twice.any():
            raise ValueError(f"row {int(twice.any(1).argmax())} names a latent twice")

    @property
    def num_rows(self) -> int:
        """Rows, those without a firing latent too."""
        return len(self.latents)

    @cached_property
    def num_clusters(self) -> int:
        """Clusters."""
        return int(self.clusters.max(initial=-1)) + 1

    @cached_property
    def rows(self) -> Floats:
        """Rows of each cluster [clusters]."""
        return np.bincount(self.clusters, minlength=self.num_clusters).astype(np.float64)

    @cached_property
    def counts(self) -> Floats:
        """Firings of each latent in each cluster [clusters, latents]: clusters are few."""
        used = self.latents >= 0
        places = (self.clusters[:, None] * self.num_latents + self.latents)[used]
        shape = (self.num_clusters, self.num_latents)
        found = np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape)
        return found.astype(np.float64)

    def with_latents(self, latents: Integers) -> Firings:
        """Return other firings in the same rows, as a null model deals them."""
        return Firings(latents, self.clusters, self.num_latents)


class PairCounts(NamedTuple):
    """How often pairs of latents fire in one row, for some of the pairs that ever do."""

    left: Integers
    """Lower latent [pairs]."""
    right: Integers
    """Higher latent [pairs]."""
    starts: Integers
    """The first entry of each pair [pairs]."""
    cluster: Integers
    """[entries]"""
    counts: Floats
    """Rows of the cluster in which both fire, at least 1 [entries]."""

    def sums(self, values: Floats) -> Floats:
        """Sums of values [entries] over the entries of each pair [pairs]."""
        if not len(self.starts):
            return np.zeros(0)
        return np.add.reduceat(values, self.starts)

    def lengths(self) -> Integers:
        """Clusters in which each pair fires [pairs]."""
        return np.diff(self.starts, append=len(self.cluster))

    def where(self, kept: Integers) -> PairCounts:
        """Return the counts of the pairs at these places alone."""
        lengths = self.lengths()[kept]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        entries = np.arange(lengths.sum()) + np.repeat(self.starts[kept] - starts, lengths)
        return PairCounts(
            self.left[kept], self.right[kept], starts, self.cluster[entries], self.counts[entries]
        )


def firings_of(
    values: Tensor, indices: Tensor, documents: Tensor, num_latents: int, *, most: int = 128
) -> Firings:
    """Return the firings of top-k latents [rows, k]; value 0 is padding.

    `documents` [rows] are numbers of runs of rows; whole ones are put into at most `most` clusters
    of about as many rows. Raises `ValueError` as `Firings`, `NonFiniteError` for NaN or infinity.
    """
    require_finite("values", values)
    latents = indices.detach().cpu().numpy().astype(np.int64)
    fires = values.detach().cpu().numpy() != 0
    return Firings(
        np.where(fires, latents, -1), clusters_of(documents.cpu().numpy(), most), num_latents
    )


def clusters_of(documents: Integers, most: int) -> Integers:
    """Put documents, which lie in runs of rows [rows], into at most `most` clusters, from 0."""
    starts = np.flatnonzero(np.diff(documents, prepend=documents[:1] - 1))
    # Each goes where its first row falls when all rows are cut into `most` equal parts.
    part = starts * most // max(len(documents), 1)
    numbers = np.cumsum(np.diff(part, prepend=part[:1]) > 0)
    return np.repeat(numbers, np.diff(starts, append=len(documents))).astype(np.int64)


def pair_counts(firings: Firings) -> Iterator[PairCounts]:
    """Yield all pairs that fire together in some row, ordered by lower and by higher latent."""
    for start, stop in pairwise(spans(firings)):
        keys = np.sort(keys_of(firings, start, stop))
        if len(keys):
            yield _counted(keys, firings.num_latents, firings.num_clusters)


def keys_of(firings: Firings, start: int, stop: int) -> Integers:
    """A number for (lower, higher, cluster) of each two latents that fire in a row, in no order.

    Of latents from start to stop as the lower one; int32 where the numbers fit, which sort in half
    the time.
    """
    fits = firings.num_latents**2 * max(firings.num_clusters, 1) < 1 << 30
    kind: type[np.signedinteger[Any]] = np.int32 if fits else np.int64
    latents = firings.latents.astype(kind)
    clusters = firings.clusters.astype(kind)[:, None]
    wanted = (latents >= start) & (latents < stop)
    found = []
    for apart in range(1, latents.shape[1]):
        pair = latents[:, :-apart] * firings.num_latents + latents[:, apart:]
        keys = pair * firings.num_clusters + clusters
        found.append(keys[wanted[:, :-apart]])
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def run_starts(ordered: Integers) -> Integers:
    """The places where a new number begins in sorted ones."""
    new = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return np.flatnonzero(new)


def _counted(keys: Integers, num_latents: int, num_clusters: int) -> PairCounts:
    places = run_starts(keys)
    counts = np.diff(places, append=len(keys)).astype(np.float64)
    pair, cluster = np.divmod(keys[places].astype(np.int64), num_clusters)
    starts = run_starts(pair)
    left, right = np.divmod(pair[starts], num_latents)
    return PairCounts(left, right, starts, cluster, counts)


def spans(firings: Firings, copies: int = 1) -> list[int]:
    """Cut the latents where about a chunk of pairs, in so many copies, has them as lower one."""
    latents = firings.latents
    higher = np.arange(latents.shape[1] - 1, -1, -1, dtype=np.float64)
    used = latents >= 0
    work = np.bincount(
        latents[used],
        weights=np.broadcast_to(higher, latents.shape)[used],
        minlength=firings.num_latents,
    )
    chunk = np.cumsum(copies * work) // _CHUNK_PAIRS
    return [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), firings.num_latents]
