"""The graph of latents that fire together: its communities, how far chance goes, how stable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bathyscope.stages.studies.factoring.nulls import (
    DEGREES,
    TOKENS,
    NullModel,
    Settings,
    rewired_graphs,
    shuffled_graphs,
    traded_copies,
)
from bathyscope.studies.cofiring import CoFiring, significant
from bathyscope.studies.communities import leiden
from bathyscope.studies.excess import beyond
from bathyscope.studies.firings import Firings
from bathyscope.studies.graph_modularity import Graph, modularity
from bathyscope.studies.jackknife import BlockInterval, jackknife
from bathyscope.studies.partitions import Alike, alike, effective_number, sizes
from bathyscope.studies.sparse_rows import Integers
from bathyscope.values import Json

LEAST = 3
"""Nodes of what counts as a community."""
LEIDEN_SEEDS = 5
PARTS = 10
"""Parts of the documents that are left out in turn."""
_COPIES, _CHECKS = 2, 1
"""Traded copies that say what the token makes, and one that the rule is tried on."""
_SIZES = 20
Say = Callable[[str], None]


class Found(NamedTuple):
    """A graph with its communities."""

    graph: Graph
    membership: Integers
    """Community of each latent [latents]."""
    figures: Json


def cofiring_graph(
    firings: Firings,
    settings: Settings,
    *,
    tokens: Integers,
    shuffles: Sequence[str],
    say: Say,
) -> Found:
    """Communities of co-firing latents; `shuffles` names the null models of firings."""
    counted = CoFiring(firings)
    tested = counted.tested(settings.neighbours)
    graph = significant(tested, rate=settings.rate)
    membership = leiden(graph, seed=settings.seed)
    say("communities")
    figures: Json = {
        "rows": firings.num_rows,
        "clusters": firings.num_clusters,
        "usable": tested.num_usable,
        **described(graph, membership),
    }
    if not graph.num_edges:
        return Found(graph, membership, figures)
    q = _over_documents(counted, settings, modularity(graph, membership))
    figures |= {"q_low": q.low, "q_high": q.high}
    figures |= _degrees(graph, membership, q, settings)
    say("rewired graphs")
    for name in shuffles:
        groups = tokens if name == TOKENS else None
        null = NullModel(name, graph, membership, seed=settings.seed)
        for each, edges in shuffled_graphs(firings, graph.num_edges, settings, groups):
            null.add(each, edges)
        figures |= null.record(q)
        say(f"null graphs: {name}")
    figures |= _stability(counted, graph, settings)
    return Found(graph, membership, figures)


def described(graph: Graph, membership: Integers) -> Json:
    """Size of a graph and of its communities; nodes without an edge belong to none."""
    joined = graph.joined
    communities = sizes(membership[joined])
    counted = communities[communities >= LEAST]
    return {
        "nodes": int(joined.sum()),
        "edges": graph.num_edges,
        "mean_degree": 2 * graph.num_edges / int(joined.sum()) if joined.any() else None,
        "q": modularity(graph, membership),
        "communities": len(counted),
        "effective_communities": effective_number(membership[joined]),
        "largest_share": float(communities[0] / joined.sum()) if len(communities) else None,
        "community_sizes": [int(size) for size in counted[:_SIZES]],
    }


def graph_beyond_token(firings: Firings, settings: Settings, tokens: Integers) -> Json:
    """The graph of what latents fire together beyond what the current token makes of it.

    Its interval is over null graphs alone. `rule_finds` is how many edges traded firings have.
    """
    copies = list(traded_copies(firings, _COPIES + _CHECKS, settings.seed, tokens))
    expected, checks = copies[:_COPIES], copies[_COPIES:]

    def made(some: Firings) -> Graph:
        return significant(beyond(some, expected, settings.neighbours), rate=settings.rate)

    graph = made(firings)
    membership = leiden(graph, seed=settings.seed)
    figures = described(graph, membership)
    found = [made(firings.with_latents(latents)).num_edges for latents in checks]
    figures["rule_finds"] = float(np.mean(found))
    if graph.num_edges:
        q = BlockInterval(figures["q"], math.nan, math.nan, 0.95, 0.0, 2)
        figures |= _degrees(graph, membership, q, settings)
    return figures


def _degrees(graph: Graph, membership: Integers, q: BlockInterval, settings: Settings) -> Json:
    null = NullModel(DEGREES, graph, membership, seed=settings.seed)
    for each in rewired_graphs(graph, settings):
        null.add(each)
    return null.record(q)


def _over_documents(counted: CoFiring, settings: Settings, q: float) -> BlockInterval:
    """Q with its interval: the graph and its communities without each part of the documents."""
    num = counted.firings.num_clusters
    if num < 2:
        return BlockInterval(q, math.nan, math.nan, math.nan, math.nan, num)
    part = np.arange(num) * min(PARTS, num) // num
    return jackknife(
        [Clusters(part == number) for number in range(part[-1] + 1)],
        lambda some: _graph_q(counted, settings, some.kept),
    )


class Clusters:
    """Some of the clusters, as sums over rows are added and taken away."""

    def __init__(self, kept: NDArray[np.bool_]) -> None:
        self.kept = kept

    def merge(self, other: Clusters) -> None:
        """Take those of another one too."""
        self.kept = self.kept | other.kept

    def without(self, other: Clusters) -> Clusters:
        """Those that the other one has not."""
        return Clusters(self.kept & ~other.kept)


def _graph_q(counted: CoFiring, settings: Settings, keep: NDArray[np.bool_]) -> float:
    graph = _graph_of(counted, settings, keep)
    return modularity(graph, leiden(graph, seed=settings.seed))


def _graph_of(counted: CoFiring, settings: Settings, keep: NDArray[np.bool_]) -> Graph:
    return significant(counted.tested(settings.neighbours, keep), rate=settings.rate)


def _stability(counted: CoFiring, graph: Graph, settings: Settings) -> Json:
    """How alike communities of two halves of the documents are, and of several Leiden seeds."""
    odd = np.arange(counted.firings.num_clusters) % 2 == 1
    halves = [_graph_of(counted, settings, keep) for keep in (~odd, odd)]
    both = halves[0].joined & halves[1].joined
    found = alike(*(leiden(half, seed=settings.seed)[both] for half in halves))
    seeds = [leiden(graph, seed=settings.seed + n)[graph.joined] for n in range(LEIDEN_SEEDS)]
    return {**_told("halves", found), **_told("leiden", *_pairs(seeds))}


def _pairs(partitions: Sequence[Integers]) -> list[Alike]:
    return [alike(a, b) for a, b in combinations(partitions, 2)]


def _told(name: str, *found: Alike) -> Json:
    return {
        f"{name}_ari": float(np.mean([each.adjusted_rand for each in found])),
        f"{name}_nmi": float(np.mean([each.mutual_information for each in found])),
        f"{name}_nodes": found[0].num_nodes,
    }


def across(first: Found, second: Found, partners: Integers) -> Json:
    """How alike communities of two dictionaries are, over latents with a partner.

    `partners` [latents of the first] names the latent of the second, or is -1.
    """
    some = np.flatnonzero(partners >= 0)
    some = some[first.graph.joined[some] & second.graph.joined[partners[some]]]
    return _told("seeds", alike(first.membership[some], second.membership[partners[some]]))
