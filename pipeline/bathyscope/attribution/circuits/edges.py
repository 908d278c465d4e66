"""Edges of a feature circuit: what an upstream node gives to the metric through a downstream one.

    w(u -> d) = <∇_y(∂m/∂d · d), Δ_u>

d is a downstream latent as its encoder reads it, or <∂m/∂y, ε> of an error; y is the tensor at u's
site. What lies between is stopped: a gradient that comes back to a site is taken there and does not
go on, so an edge is a direct one. One backward serves one downstream node of all pairs, and edges
from all sites before it come with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.attribution.circuits.nodes import Circuit, FeatureNode, FeatureNodes, collected
from bathyscope.attribution.nodes.contrasts import require_slope
from bathyscope.attribution.nodes.forward import Graph, graph_of
from bathyscope.attribution.nodes.places import Change, Place
from bathyscope_kernels import Encoded


class FeatureEdge(NamedTuple):
    """One edge; the mean over pairs of its weight, in the metric's unit."""

    upstream: FeatureNode
    downstream: FeatureNode | None
    """None for the metric itself: what a node gives to it past all later sites."""
    weight: float


class _Stops:
    """Gradients that come back to sites: taken and stopped while `stopping`, else let through."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.stopping = False
        self.taken: dict[Place, Tensor] = {}
        self.hooks: Mapping[Place, Change] = {place: self._hook(place) for place in places}

    def _hook(self, place: Place) -> Change:
        def returned(gradient: Tensor) -> Tensor:
            if not self.stopping:
                return gradient
            self.taken[place] = gradient.detach()
            return torch.zeros_like(gradient)

        return returned


def feature_edges(
    nodes: FeatureNodes, circuit: Circuit, *, threshold: float = 0.0
) -> list[FeatureEdge]:
    """Direct edges between the nodes of a circuit, and from each to the metric.

    Edges whose absolute weight does not reach the threshold, or is 0, are left out; the largest
    come first. Costs one backward for each node of the circuit. Raises ConfigError for `kl`.
    """
    require_slope(nodes.contrast, "Edges")
    problem, sites = nodes.contrast, nodes.sites
    stops = _Stops([site.written for site in sites])
    places = list(dict.fromkeys(p for site in sites for p in (site.read, site.written)))
    graph = graph_of(
        problem.model, problem.pairs.clean, places, problem.metric,
        pairs=len(problem.pairs), on_gradient=stops.hooks,
    )  # fmt: skip
    slopes = graph.gradients([site.written for site in sites])
    edges = _edges_into(nodes, circuit, graph, stops, graph.metric.sum(), len(sites), None)
    for number, keys in enumerate(circuit.keys):
        if number == 0 or not len(keys):
            continue
        values = _DownstreamValues(nodes, number, graph, slopes[sites[number].written])
        for key in keys.tolist():
            node = nodes.node(number, key, _score_of(nodes, number, key))
            total = values.of(key)
            if total is not None:
                edges += _edges_into(nodes, circuit, graph, stops, total, number, node)
    kept = [e for e in edges if e.weight != 0 and abs(e.weight) >= threshold]
    return sorted(kept, key=lambda edge: -abs(edge.weight))


class _DownstreamValues:
    """∂m/∂d · d of single nodes of a site, summed over pairs, with the graph."""

    def __init__(self, nodes: FeatureNodes, number: int, graph: Graph, slope: Tensor) -> None:
        self._nodes, self._site = nodes, nodes.sites[number]
        dictionary = self._site.dictionary
        dtype = dictionary.W_dec.dtype
        # What another site writes is read behind its stop.
        own = self._site.read == self._site.written
        x = (graph.tensors if own else graph.onwards)[self._site.read].flatten(0, 1).to(dtype)
        y = graph.tensors[self._site.written].flatten(0, 1).to(dtype)
        with torch.enable_grad():
            self._latents: Encoded
            self._latents, y_hat = dictionary.reconstruct(x)
            self._slope = slope.flatten(0, 1).to(dtype).detach()
            self._errors = ((y - y_hat) * self._slope).sum(-1)
        keep = nodes.contrast.pairs.keep
        self._keep = keep.flatten()
        self._position = torch.arange(keep.shape[1], device=keep.device).expand_as(keep).flatten()

    def of(self, key: int) -> Tensor | None:
        """The value of a node; None where it is active on no clean prompt."""
        position, slot = divmod(key, self._site.slots)
        rows = self._keep
        if self._nodes.by_position:
            rows = rows & (self._position == position)
        with torch.enable_grad():
            if slot == self._site.slots - 1:
                return (self._errors * rows).sum()
            active = (self._latents.indices == slot) & (self._latents.values > 0) & rows[:, None]
            if not bool(active.any()):
                return None
            worth = self._slope @ self._site.dictionary.W_dec[slot]
            return ((self._latents.values * active).sum(1) * worth).sum()


def _edges_into(
    nodes: FeatureNodes, circuit: Circuit, graph: Graph, stops: _Stops, total: Tensor,
    number: int, downstream: FeatureNode | None,
) -> list[FeatureEdge]:  # fmt: skip
    """Edges from all sites before site `number` into one node, or into the metric."""
    first = graph.tensors[nodes.sites[0].written]
    stops.stopping, stops.taken = True, {}
    try:
        torch.autograd.grad(total, first, retain_graph=True, allow_unused=True)
    finally:
        stops.stopping = False
    edges = []
    for above, site in enumerate(nodes.sites[:number]):
        gradient = stops.taken.get(site.written)
        if gradient is None or not len(circuit.keys[above]):
            continue
        values = [
            bound.dot(gradient) if bound.place == site.written else torch.empty(0)
            for bound in nodes.contrast.nodes
        ]
        keys, weights = collected(nodes, values, above, site)
        inside = torch.isin(keys, circuit.keys[above])
        for key, weight in zip(keys[inside].tolist(), weights[inside].tolist(), strict=True):
            upstream = nodes.node(above, key, _score_of(nodes, above, key))
            edges.append(FeatureEdge(upstream, downstream, weight))
    return edges


def _score_of(nodes: FeatureNodes, number: int, key: int) -> float:
    keys = nodes.keys[number]
    return float(nodes.scores[number][torch.searchsorted(keys, key)])
