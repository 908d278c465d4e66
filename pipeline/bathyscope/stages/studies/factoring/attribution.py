"""The graph of what latents of transcoders give to latents of later blocks, and its communities.

An edge is the mean absolute attribution over held-out rows along the straight path through the
residual stream: |V[t, s]| · E[a_t a_s] / E[a_t], the virtual weight times how active the source is
where the target is (Ameisen et al. 2025). Norm scales and paths through attention are left out.

What the current token alone makes of it is the same with the means of both over rows of a token:
E[a_t a_s] becomes E[E[a_t | token] E[a_s | token]].
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bathyscope.config import Config
from bathyscope.stages.studies.factoring.attribution_sums import Summed, summed
from bathyscope.stages.studies.factoring.graphs import LEIDEN_SEEDS, Clusters, Say, described
from bathyscope.stages.studies.factoring.nulls import NullModel, Settings, settings_of
from bathyscope.studies.communities import leiden
from bathyscope.studies.graph_modularity import modularity
from bathyscope.studies.jackknife import BlockInterval, jackknife
from bathyscope.studies.layered import Layered, traded_sources
from bathyscope.studies.partitions import alike
from bathyscope.studies.sparse_rows import Integers
from bathyscope.values import Json

ATTRIBUTION = "attribution"
LAYERS = "layers"
"""The null model: sources traded within each two layers."""


def measure_attribution(config: Config, say: Say) -> Json:
    """Communities of the attribution graph of a member; `config` is of its run of transcoders.

    Raises `ConfigError` for models whose norms are not known.
    """
    settings, sums = settings_of(config), summed(config, say)
    edges = sums.edges(np.ones(len(sums.alone), dtype=bool), settings.neighbours)
    graph = edges.graph
    membership = leiden(graph, seed=settings.seed)
    figures: Json = {
        "num_latents": int((sums.layers == 0).sum()),
        "k": config.study.transcoder_k,
        "blocks": int(sums.layers.max()) + 1,
        **described(graph, membership),
        "across_layers": _across_layers(edges.layers, membership, graph.joined),
    }
    if not graph.num_edges or len(sums.alone) < 2:
        return figures
    q = _over_documents(sums, settings)
    say("attribution: null graphs")
    null = NullModel(LAYERS, graph, membership, seed=settings.seed)
    for number in range(settings.null_graphs):
        draw = np.random.default_rng([settings.seed, number])
        null.add(traded_sources(edges, seed=draw).graph)
    figures |= {"q_low": q.low, "q_high": q.high, **null.record(q)}
    figures |= _of_token(sums, edges, membership, settings)
    return {**figures, **_stability(sums, edges, settings)}


def _over_documents(sums: Summed, settings: Settings) -> BlockInterval:
    """Q with its interval: graph and communities without each part of the documents."""

    def q_of(some: Clusters) -> float:
        graph = sums.edges(some.kept, settings.neighbours).graph
        return modularity(graph, leiden(graph, seed=settings.seed))

    number = np.arange(len(sums.alone))
    return jackknife([Clusters(number == part) for part in number], q_of)


def _of_token(sums: Summed, edges: Layered, membership: Integers, settings: Settings) -> Json:
    """The graph that the current token alone would make, and how like the real one it is."""
    token = sums.of_token(settings.neighbours)
    graph = token.graph
    found = leiden(graph, seed=settings.seed)
    both = graph.joined & edges.graph.joined
    q = modularity(graph, found)
    pairs = [each.targets * len(each.layers) + each.sources for each in (edges, token)]
    return {
        "token_q": q,
        "token_less": modularity(edges.graph, membership) - q,
        "token_ari": alike(membership[both], found[both]).adjusted_rand,
        "token_shared": float(np.isin(pairs[0], pairs[1]).mean()),
    }


def _across_layers(layers: Integers, membership: Integers, joined: NDArray[np.bool_]) -> float:
    """Effective number of layers in a community, mean over latents with an edge."""
    num = int(layers.max()) + 1
    table = np.zeros((int(membership.max()) + 1, num))
    np.add.at(table, (membership[joined], layers[joined]), 1)
    table = table[table.sum(1) > 0]
    if not len(table):
        return float("nan")
    shares = table / table.sum(1, keepdims=True)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(1)
    return float(np.exp(entropy) @ table.sum(1) / table.sum())


def _stability(sums: Summed, edges: Layered, settings: Settings) -> Json:
    """How alike communities of two halves of the documents are, and of several Leiden seeds."""
    odd = np.arange(len(sums.alone)) % 2 == 1
    graphs = [sums.edges(keep, settings.neighbours).graph for keep in (~odd, odd)]
    both = graphs[0].joined & graphs[1].joined
    found = alike(*(leiden(graph, seed=settings.seed)[both] for graph in graphs))
    graph = edges.graph
    seeds = [leiden(graph, seed=settings.seed + n)[graph.joined] for n in range(LEIDEN_SEEDS)]
    return {
        "halves_ari": found.adjusted_rand,
        "halves_nmi": found.mutual_information,
        "halves_nodes": found.num_nodes,
        "leiden_ari": float(
            np.mean([alike(a, b).adjusted_rand for a, b in combinations(seeds, 2)])
        ),
    }
