"""Random graphs and random firings with the same margins as given ones.

**Graphs** are rewired by swaps of two edges, a-b and c-d to a-d and c-b, which keep every degree.
A round pairs all edges at random and proposes all swaps at once. A pair is swapped only where each
of its two edges and of its two proposals comes once among all edges and all proposals of the round.
By that rule the way back is as likely as the way there (the same pairs propose it, and no other
pair may do more or less than before), so that all simple graphs of these degrees become equally
likely, as with one swap at a time (Fosdick et al. 2018, arXiv:1608.00607).

**Firings** are rows, each a set of latents. They trade in pairs (global curveball, Carstens, Berger
and Strona 2018, arXiv:1609.05137): latents that only one of two rows has are dealt out again at
random, and each row keeps its number. That keeps the L0 of every row and the firings of every
latent exactly. Where rows trade only within groups, such as rows of one current token, it keeps the
firings of every latent in every group too.
"""

from __future__ import annotations

import numpy as np

from bathyscope.studies.graph_modularity import Graph
from bathyscope.studies.sparse_rows import Integers

# Bits of a place that leave 24 for chance in a key of 31.
_NARROW_PLACES = 6


def rewired(graph: Graph, *, seed: int | np.random.Generator, rounds: int = 20) -> Graph:
    """Return a random simple graph with the same degree of every node.

    Weights are dealt out again at random, so strengths are kept on average only. A round proposes
    one swap for each two edges, or 10 for each edge in all.
    """
    draw = np.random.default_rng(seed)
    left, right = graph.left.copy(), graph.right.copy()
    pairs = graph.num_edges // 2
    if pairs:
        for _ in range(rounds):
            order = draw.permutation(graph.num_edges)[: 2 * pairs]
            _swap(left, right, order.reshape(2, pairs), graph.num_nodes, draw)
    low, high = np.minimum(left, right), np.maximum(left, right)
    return Graph(graph.num_nodes, low, high, draw.permutation(graph.weights))


def _swap(
    left: Integers,
    right: Integers,
    chosen: Integers,
    num_nodes: int,
    draw: np.random.Generator,
) -> None:
    """Swap the right ends of pairs of edges `chosen` [2, pairs] where the rule allows it."""
    first, second = chosen
    # An edge has no direction: which of its ends is the right one is tossed.
    turned = second[draw.random(len(second)) < 0.5]
    left[turned], right[turned] = right[turned], left[turned]
    a, b, c, d = left[first], right[first], left[second], right[second]
    old = _keys(left, right, num_nodes)
    new = np.stack([_keys(a, d, num_nodes), _keys(c, b, num_nodes)])
    _, place, counts = np.unique(
        np.concatenate([old, new.ravel()]), return_inverse=True, return_counts=True
    )
    alone = counts[place] == 1
    proposed = alone[len(old) :].reshape(2, -1).all(0)
    allowed = alone[first] & alone[second] & proposed & (a != d) & (b != c)
    right[first[allowed]], right[second[allowed]] = d[allowed], b[allowed]


def _keys(left: Integers, right: Integers, num_nodes: int) -> Integers:
    keys: Integers = np.minimum(left, right) * num_nodes + np.maximum(left, right)
    return keys


def traded(
    latents: Integers,
    groups: Integers | None = None,
    *,
    seed: int | np.random.Generator,
    rounds: int,
) -> Integers:
    """Return latents [rows, slots] after `rounds` in which every row trades with another one.

    Slots of -1 are unused and stay where they are; a row names no latent twice. `groups` [rows]
    are numbers from 0; rows trade within theirs, and of an odd group one row waits each round.
    """
    draw = np.random.default_rng(seed)
    found = np.array(latents, dtype=np.int64)
    if groups is None:
        groups = np.zeros(len(found), dtype=np.int64)
    for _ in range(rounds if found.size else 0):
        first, second = _partners(groups, draw)
        both = np.concatenate([found[first], found[second]], axis=1)
        dealt = _dealt(both, draw)
        found[first], found[second] = np.split(dealt, 2, axis=1)
    return found


def _partners(groups: Integers, draw: np.random.Generator) -> tuple[Integers, Integers]:
    """Rows in pairs of one group, at random."""
    order = np.argsort(groups + draw.random(len(groups)))
    sorted_groups = groups[order]
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=-1))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    first = np.flatnonzero(place[:-1] % 2 == 0)
    first = first[sorted_groups[first] == sorted_groups[first + 1]]
    return order[first], order[first + 1]


def _dealt(both: Integers, draw: np.random.Generator) -> Integers:
    """Latents of pairs of rows [pairs, 2 slots] with those of one row alone dealt out again."""
    slots = both.shape[1]
    bits = max(slots - 1, 1).bit_length()
    # Half as wide keys sort in half the time, where latents and places fit.
    narrow = bits <= _NARROW_PLACES and int(both.max(initial=0)) < 1 << (31 - bits)
    kind, random_bits = (np.int32, 30 - bits) if narrow else (np.int64, 62 - bits)
    places = np.arange(slots, dtype=kind)
    mask = (1 << bits) - 1
    # Sorted with their place below them, equal latents come to lie together.
    ordered = np.sort((both.astype(kind) << bits) | places, axis=1)
    same = (ordered[:, 1:] >> bits) == (ordered[:, :-1] >> bits)
    twice = np.zeros(both.shape, dtype=bool)
    twice[:, 1:] |= same
    twice[:, :-1] |= same
    stays = np.zeros(both.shape, dtype=bool)
    np.put_along_axis(stays, ordered & mask, twice, axis=1)
    stays |= both < 0
    # Free places come first in both: in their order, and in a random one.
    last = stays.astype(kind) << (random_bits + bits)
    in_order = np.sort(last | places, axis=1) & mask
    chance = draw.integers(1 << random_bits, size=both.shape, dtype=kind) << bits
    chance[stays] = 0
    at_random = np.sort(last | chance | places, axis=1) & mask
    dealt = both.copy()
    np.put_along_axis(dealt, in_order, np.take_along_axis(both, at_random, axis=1), axis=1)
    return dealt
