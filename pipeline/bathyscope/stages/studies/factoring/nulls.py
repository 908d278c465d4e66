"""Graphs of null models: what modularity is found where there are no communities.

    degrees   the same degrees, edges rewired, weights dealt out again
    margins   each row's L0 and each latent's firings kept, firings traded between rows; of the
              pairs the strongest, as many as the real graph has edges
    tokens    the same, traded between rows of one current token only: what the token alone makes

Real and null graphs go through the same steps, from the neighbours that are kept to Leiden.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from bathyscope.config import Config
from bathyscope.studies.cofiring import CoFiring, significant, strongest
from bathyscope.studies.communities import leiden
from bathyscope.studies.firings import Firings
from bathyscope.studies.graph_modularity import Graph, modularity
from bathyscope.studies.jackknife import BlockInterval
from bathyscope.studies.partitions import alike, effective_number
from bathyscope.studies.rewiring import rewired, traded
from bathyscope.studies.sparse_rows import Integers
from bathyscope.values import Json

DEGREES, MARGINS, TOKENS = "degrees", "margins", "tokens"
FIRST_ROUNDS, ROUNDS = 10, 3
"""Trades of every row before the first null graph, and between one and the next."""


@dataclass(frozen=True)
class Settings:
    """How graphs are made of firings."""

    neighbours: int
    rate: float
    null_graphs: int
    seed: int


def settings_of(config: Config) -> Settings:
    """Those of the configured study."""
    study = config.study
    return Settings(study.neighbours, study.false_edges, study.null_graphs, study.seed)


def rewired_graphs(graph: Graph, settings: Settings) -> Iterator[Graph]:
    """Yield graphs with the degrees of a graph, each rewired from it anew."""
    for number in range(settings.null_graphs):
        yield rewired(graph, seed=np.random.default_rng([settings.seed, number]))


def shuffled_graphs(
    firings: Firings, num_edges: int, settings: Settings, groups: Integers | None
) -> Iterator[tuple[Graph, int]]:
    """Yield graphs of traded firings, and how many edges the rule for real graphs finds there."""
    for latents in traded_copies(firings, settings.null_graphs, settings.seed, groups):
        tested = CoFiring(firings.with_latents(latents)).tested(settings.neighbours)
        yield strongest(tested, num_edges), significant(tested, rate=settings.rate).num_edges


def traded_copies(
    firings: Firings, num: int, seed: int, groups: Integers | None
) -> Iterator[Integers]:
    """Yield latents [rows, slots] that were traded on and on, within groups of rows [rows]."""
    draw = np.random.default_rng(seed)
    latents = firings.latents
    for number in range(num):
        rounds = ROUNDS if number else FIRST_ROUNDS
        latents = traded(latents, groups, seed=draw, rounds=rounds)
        yield latents


class NullModel:
    """Modularity of the graphs of one null model, as they come."""

    def __init__(self, name: str, graph: Graph, membership: Integers, *, seed: int) -> None:
        self.name, self._seed = name, seed
        self._graph, self._membership = graph, membership
        self._q: list[float] = []
        self._effective: list[float] = []
        self._edges: list[int] = []
        self._alike: list[float] = []
        self._found: list[int] = []

    def add(self, graph: Graph, found: int | None = None) -> None:
        """Find communities in a graph of the null model."""
        membership = leiden(graph, seed=self._seed + len(self._q))
        self._q.append(modularity(graph, membership))
        self._effective.append(effective_number(membership[graph.joined]))
        self._edges.append(graph.num_edges)
        both = graph.joined & self._graph.joined
        self._alike.append(alike(self._membership[both], membership[both]).adjusted_rand)
        if found is not None:
            self._found.append(found)

    def record(self, q: BlockInterval) -> Json:
        """Its figures, and what the real graph's Q is beyond them.

        The error of the difference is that of Q over documents and that of the null's mean.
        """
        values = np.array(self._q)
        if not np.isfinite(values).all():
            return {f"{self.name}_note": "A null graph has no edge, so that Q is not defined."}
        mean, sd = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
        error = float(np.hypot(q.standard_error, sd / np.sqrt(len(values))))
        reach = float(student.ppf(0.975, max(q.num_blocks - 1, 1))) * error
        beyond = q.estimate - mean
        found: Json = {
            "q": mean,
            "q_sd": sd,
            "z": beyond / sd if sd else None,
            "less": beyond,
            "less_low": beyond - reach,
            "less_high": beyond + reach,
            "effective": float(np.mean(self._effective)),
            "edges": float(np.mean(self._edges)),
            "ari": float(np.mean(self._alike)),
        }
        if self._found:
            found["edges_found"] = float(np.mean(self._found))
        return {f"{self.name}_{key}": value for key, value in found.items()}
