"""The nodes of a feature circuit: latents and errors of several dictionaries, with their scores.

After Marks et al. 2024, "Sparse Feature Circuits", arXiv:2403.19647. A node is a latent, or an
error term, at one position or at all of them; its score is the mean over pairs of its indirect
effect by attribution patching or integrated gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bathyscope.attribution.nodes.bound import Nodes
from bathyscope.attribution.nodes.contrasts import Contrast, contrast
from bathyscope.attribution.nodes.latents import Latents
from bathyscope.attribution.nodes.linear import attribution_patching, integrated_gradients
from bathyscope.attribution.nodes.metrics import Metric
from bathyscope.attribution.nodes.pairs import Pairs
from bathyscope.attribution.nodes.places import Place
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.errors import ConfigError

Method = Literal["atp", "ig"]


@dataclass(frozen=True)
class Site:
    """One dictionary where it stands in the model."""

    dictionary: Dictionary
    read: Place
    written: Place

    @property
    def slots(self) -> int:
        """Nodes per position: every latent, and the error as the last."""
        return self.dictionary.num_latents + 1


class FeatureNode(NamedTuple):
    """One node of a circuit."""

    place: str
    position: int
    """-1 for all positions."""
    latent: int
    """-1 for the error."""
    score: float


@dataclass(frozen=True)
class FeatureNodes:
    """All nodes that are active on some prompt, with their scores."""

    contrast: Contrast
    sites: list[Site]
    """In the order of the forward."""
    by_position: bool
    keys: list[Tensor]
    """int64 [nodes] per site, ascending: position · slots + slot, the position being 0 for all."""
    scores: list[Tensor]
    """[nodes] per site, in the metric's unit."""

    @property
    def count(self) -> int:
        """Nodes of all sites."""
        return sum(map(len, self.keys))

    def top(self, count: int) -> Circuit:
        """The circuit of the nodes with the largest absolute scores."""
        ranked = torch.cat(self.scores).abs().sort(descending=True, stable=True).indices
        kept = torch.zeros(self.count, dtype=torch.bool, device=ranked.device)
        kept[ranked[:count]] = True
        return self._circuit(kept)

    def above(self, threshold: float) -> Circuit:
        """The circuit of the nodes whose absolute score reaches the threshold."""
        return self._circuit(torch.cat(self.scores).abs() >= threshold)

    def describe(self, circuit: Circuit) -> list[FeatureNode]:
        """The nodes of a circuit, the largest absolute scores first."""
        found = [
            self.node(site, int(key), float(score))
            for site in range(len(self.sites))
            for key, score in zip(self.keys[site], self.scores[site], strict=True)
            if bool(torch.isin(key, circuit.keys[site]))
        ]
        return sorted(found, key=lambda node: -abs(node.score))

    def node(self, site: int, key: int, score: float) -> FeatureNode:
        """The node of a key."""
        at = self.sites[site]
        position, slot = divmod(key, at.slots)
        latent = -1 if slot == at.slots - 1 else slot
        return FeatureNode(at.written.name, position if self.by_position else -1, latent, score)

    def keys_of(self, nodes: Nodes, site: int) -> Tensor:
        """The keys [entries] of bound nodes of a site."""
        at = self.sites[site]
        slot = nodes.table.index if nodes.kind == "latent" else torch.full_like(
            nodes.table.index, at.slots - 1
        )  # fmt: skip
        return nodes.table.position * at.slots + slot if self.by_position else slot

    def _circuit(self, kept: Tensor) -> Circuit:
        parts = kept.split([len(keys) for keys in self.keys])
        return Circuit([k[part] for k, part in zip(self.keys, parts, strict=True)])


@dataclass(frozen=True)
class Circuit:
    """Some of the nodes: keys per site, ascending, as in `FeatureNodes.keys`."""

    keys: list[Tensor]

    def __len__(self) -> int:
        """Number of nodes."""
        return sum(map(len, self.keys))

    def without(self, nodes: FeatureNodes) -> Circuit:
        """M without C: all other nodes."""
        return Circuit([a[~torch.isin(a, k)] for a, k in zip(nodes.keys, self.keys, strict=True)])


def feature_nodes(
    model: nn.Module,
    pairs: Pairs,
    metric: str | Metric,
    dictionaries: Sequence[Dictionary],
    *,
    method: Method = "ig",
    steps: int = 8,
    by_position: bool = False,
) -> FeatureNodes:
    """Score the latents and errors of dictionaries at different hook points.

    With `by_position` every position is a node of its own, which needs pairs whose positions mean
    the same. Raises ConfigError for no dictionaries, or two that write one place, and what
    `contrast` raises.
    """
    specs = [Latents(dictionary) for dictionary in dictionaries]
    problem = contrast(model, pairs, metric, specs)
    order = list(problem.clean.tensors)
    sites = [Site(s.dictionary, *s.read_and_written(model)) for s in specs]
    sites.sort(key=lambda site: order.index(site.written))
    written = [site.written.name for site in sites]
    if not sites or len(set(written)) < len(written):
        raise ConfigError(f"Got dictionaries that write {written}; wanted one or more places.")
    if method not in ("atp", "ig"):
        raise ConfigError(f"method is {method!r}. Choose one of atp, ig.")
    found = (
        attribution_patching(problem) if method == "atp" else
        integrated_gradients(problem, steps=steps)
    )  # fmt: skip
    nodes = FeatureNodes(problem, sites, by_position, [], [])
    for number, site in enumerate(sites):
        keys, values = collected(nodes, found.values, number, site)
        nodes.keys.append(keys)
        nodes.scores.append(values)
    return nodes


def collected(
    nodes: FeatureNodes, values: Sequence[Tensor], number: int, site: Site
) -> tuple[Tensor, Tensor]:
    """Keys that occur at a site and, of values of the contrast's nodes, means over pairs."""
    problem = nodes.contrast
    pieces = [
        (nodes.keys_of(bound, number), value)
        for bound, value in zip(problem.nodes, values, strict=True)
        if bound.place == site.written and bound.kind in ("latent", "error")
    ]
    keys, where = torch.unique(torch.cat([k for k, _ in pieces]), return_inverse=True)
    summed = torch.zeros(len(keys), dtype=torch.float64, device=keys.device)
    summed.index_add_(0, where, torch.cat([v.double() for _, v in pieces]))
    return keys, summed / len(problem.pairs)
