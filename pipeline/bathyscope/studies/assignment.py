"""Bijective assignment on a sparse graph of candidate pairs.

Each row gets at most one column and each column at most one row, so that the sum of the scores is
largest. Connected parts of the graph are independent. Parts of up to 10,000 rows are solved exactly
(SciPy's sparse Jonker-Volgenant); its time grows with the square of the rows, so larger ones go
to an auction (Bertsekas 1988), whose sum is at most ε per row below the largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

EPSILON = 1e-3
_EXACT_ROWS = 10_000
# Small parts are solved together up to so many rows.
_TOGETHER = 2_000


class Assignment(NamedTuple):
    """Partner of each row."""

    partners: Integers
    """Column of each row [rows]; -1 without one."""
    scores: Floats
    """Score of the pair [rows]; 0 without one."""
    num_auctioned: int
    """Rows in parts that went to the auction: the sum is within ε of the best per such row."""


def assign(
    rows: Integers,
    columns: Integers,
    scores: Floats,
    *,
    num_rows: int,
    num_columns: int,
    epsilon: float = EPSILON,
    exact_rows: int = _EXACT_ROWS,
) -> Assignment:
    """Return the assignment of largest Σ scores over candidate pairs (rows, columns).

    `scores` [pairs] are above 0 and at most 1; no pair comes twice. A row may stay without a
    column, which scores 0. Raises `ValueError` for other scores.
    """
    # Cosines of equal vectors come out a few rounding steps above 1.
    if len(scores) and not (scores.min() > 0 and scores.max() <= 1 + 1e-9):
        raise ValueError(
            f"scores run from {scores.min()} to {scores.max()}: wanted above 0 and at most 1"
        )
    graph = csr_array((scores, (rows, num_rows + columns)), shape=(num_rows + num_columns,) * 2)
    _, part = connected_components(graph, directed=False)
    size = np.bincount(part[:num_rows], minlength=part.max(initial=0) + 1)
    large = size[part[rows]] > exact_rows
    partners = np.full(num_rows, -1, dtype=np.int64)
    for some in _batches(rows, part, size, large):
        _exact(rows[some], columns[some], scores[some], partners)
    if large.any():
        _auction(rows[large], columns[large], scores[large], partners, num_columns, epsilon)
    found = np.zeros(num_rows)
    hit = partners[rows] == columns
    found[rows[hit]] = scores[hit]
    return Assignment(partners, found, int(size[size > exact_rows].sum()))


def _batches(
    rows: Integers, part: Integers, size: Integers, large: NDArray[np.bool_]
) -> Iterator[Integers]:
    """Places of the pairs of small parts; many tiny parts go to the solver together."""
    places = np.flatnonzero(~large)
    places = places[np.argsort(part[rows[places]], kind="stable")]
    if not len(places):
        return
    parts, starts = np.unique(part[rows[places]], return_index=True)
    # Rows of all parts before each one; a new batch begins where this passes a multiple.
    batch = (np.cumsum(size[parts]) - size[parts]) // _TOGETHER
    cuts = starts[np.flatnonzero(np.diff(batch)) + 1]
    yield from np.split(places, cuts)


def _exact(rows: Integers, columns: Integers, scores: Floats, partners: Integers) -> None:
    own, row = np.unique(rows, return_inverse=True)
    theirs, column = np.unique(columns, return_inverse=True)
    spare = np.arange(len(own))
    # A column of its own with score 0 for each row, so that a full matching exists; costs are
    # 2 - score, because SciPy takes a cost of 0 for no pair.
    costs = np.concatenate([2 - scores, np.full(len(own), 2.0)])
    places = (
        np.concatenate([row, spare]),
        np.concatenate([column, len(theirs) + spare]),
    )
    graph = csr_array((costs, places), shape=(len(own), len(theirs) + len(own)))
    matched, chosen = min_weight_full_bipartite_matching(graph)
    paired = chosen < len(theirs)
    partners[own[matched[paired]]] = theirs[chosen[paired]]


def _auction(
    rows: Integers,
    columns: Integers,
    scores: Floats,
    partners: Integers,
    num_columns: int,
    epsilon: float,
) -> None:
    """Rows bid for columns until each has one or none is worth its price.

    A row bids as much as makes its best column ε worse than its second best or than none.
    """
    order = np.lexsort((columns, rows))
    own, starts, degrees = np.unique(rows[order], return_index=True, return_counts=True)
    columns, scores = columns[order], scores[order]
    prices, owners = np.zeros(num_columns), np.full(num_columns, -1, dtype=np.int64)
    active = np.arange(len(own))
    while len(active):
        degree = degrees[active]
        first = np.cumsum(degree) - degree
        edges = np.repeat(starts[active] - first, degree) + np.arange(degree.sum())
        gain = scores[edges] - prices[columns[edges]]
        best = np.maximum.reduceat(gain, first)
        bidding = best > 0
        at = _first_equal(gain, np.repeat(best, degree), first, degree)
        wanted = columns[edges[at]]
        gain[at] = 0
        second = np.maximum(np.maximum.reduceat(gain, first), 0)
        bids = prices[wanted] + best - second + epsilon
        who, wanted, bids = active[bidding], wanted[bidding], bids[bidding]
        # The highest bid of each column wins; of equal ones, that of the lowest row.
        ranked = np.lexsort((who, -bids, wanted))
        firsts = ranked[np.unique(wanted[ranked], return_index=True)[1]]
        won = wanted[firsts]
        outbid = owners[won]
        owners[won], prices[won] = who[firsts], bids[firsts]
        lost = np.ones(len(who), dtype=bool)
        lost[firsts] = False
        active = np.sort(np.concatenate([who[lost], outbid[outbid >= 0]]))
    taken = np.flatnonzero(owners >= 0)
    partners[own[owners[taken]]] = taken


def _first_equal(gain: Floats, best: Floats, first: Integers, degree: Integers) -> Integers:
    """Place of the first entry of each group that equals the group's best."""
    hits = np.flatnonzero(gain == best)
    group = np.repeat(np.arange(len(first)), degree)[hits]
    return hits[np.unique(group, return_index=True)[1]]
