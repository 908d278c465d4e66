"""How much an attribution can have missed: bounds by sampling, after Kramár et al. 2024.

An attribution is a filter: its first nodes are patched exactly, the others are not. Two samples say
something about these.

- Single nodes: some of them, drawn at random, are patched exactly. The number of nodes whose effect
  reaches a threshold has an exact upper bound (hypergeometric), whatever the effects are.
- Subsets: random halves of them are patched together. If effects add up, the mean of forwards with
  a node less that of forwards without it is its effect, and every node gets an interval from the
  same few forwards (Welch's, corrected for the number of nodes).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import hypergeom
from scipy.stats import t as student
from torch import Tensor

from bathyscope.attribution.nodes.bound import Nodes
from bathyscope.attribution.nodes.contrasts import Contrast, Scores
from bathyscope.attribution.nodes.exact import exact_effects
from bathyscope.attribution.nodes.forward import traced
from bathyscope.attribution.nodes.metrics import evaluated
from bathyscope.attribution.nodes.pairs import repeated
from bathyscope.attribution.nodes.places import Change, Place
from bathyscope.errors import ConfigError

_NODES = 1 << 14
"""Nodes whose subsets are told apart at a time."""


@dataclass(frozen=True)
class Missed:
    """What a sample of single nodes says of the nodes that were not patched."""

    unverified: int
    sampled: int
    found: int
    """Sampled nodes whose |effect| reaches the threshold."""
    threshold: float
    confidence: float
    at_most: int
    """With that confidence no more of the unverified nodes reach the threshold."""


def missed_nodes(
    scores: Scores, *, verified: int, sample: int, threshold: float, confidence: float = 0.95,
    seed: int = 0, rows_per_forward: int = 32,
) -> Missed:  # fmt: skip
    """Patch a random sample of the nodes after the `verified` first ones, and bound the rest.

    Raises ConfigError for a confidence outside (0, 1) or an empty sample.
    """
    _check(confidence, sample)
    order = scores.flat().abs().sort(descending=True, stable=True).indices.cpu()
    rest = order[verified:]
    generator = torch.Generator().manual_seed(seed)
    drawn = rest[torch.randperm(len(rest), generator=generator)[:sample]]
    effects = effects_of(scores.contrast, drawn, rows_per_forward)
    found = int((effects.abs() >= threshold).sum())
    at_most = most_hits(len(rest), len(drawn), found, confidence)
    return Missed(len(rest), len(drawn), found, threshold, confidence, at_most)


def most_hits(population: int, sample: int, found: int, confidence: float) -> int:
    """The largest number of hits in the population that the sample does not speak against.

    The largest D with P(at most `found` hits in a sample | D) > 1 - confidence.
    """
    low, high = found, population - (sample - found)
    while low < high:
        # The chance falls with D, and at D = found it is 1.
        middle = (low + high + 1) // 2
        likely = hypergeom.cdf(found, population, middle, sample) > 1 - confidence
        low, high = (middle, high) if likely else (low, middle - 1)
    return low


def effects_of(contrast: Contrast, chosen: Tensor, rows_per_forward: int = 32) -> Tensor:
    """Exact effects [len(chosen)] of nodes numbered as in `Scores.flat`."""
    effects, start = contrast.clean_metric.new_zeros(len(chosen), device="cpu"), 0
    for nodes in contrast.nodes:
        here = ((chosen >= start) & (chosen < start + len(nodes.table))).nonzero()[:, 0]
        if len(here):
            found = exact_effects(contrast, nodes, chosen[here] - start, rows_per_forward)
            effects[here] = found.cpu()
        start += len(nodes.table)
    return effects


@dataclass(frozen=True)
class SubsetBound:
    """What random subsets say of each node that was not patched by itself."""

    chosen: Tensor
    """int64 [n]: the nodes, numbered as in `Scores.flat`."""
    effect: Tensor
    """float64 [n]: the estimate of a node's effect."""
    bound: Tensor
    """float64 [n]: with the confidence, all |effects| are at most these; if effects add up."""


@torch.no_grad()
def subset_bound(
    scores: Scores, *, verified: int, subsets: int, confidence: float = 0.95, seed: int = 0
) -> SubsetBound:
    """Patch random halves of the nodes after the `verified` first ones, `subsets` times per pair.

    Raises ConfigError for fewer than 8 subsets: Welch's intervals need a spread on both sides.
    """
    _check(confidence, subsets)
    if subsets < 8:
        raise ConfigError(f"subsets is {subsets}; wanted at least 8.")
    contrast = scores.contrast
    order = scores.flat().abs().sort(descending=True, stable=True).indices.cpu()
    rest = order[verified:].sort().values
    generator = torch.Generator().manual_seed(seed)
    inside = torch.rand(subsets, len(rest), generator=generator) < 0.5
    metric = torch.stack([_patched_together(contrast, rest[row]) for row in inside]).double().cpu()
    pair = torch.cat([n.table.pair for n in contrast.nodes]).cpu()[rest]
    pieces = [
        _welch(metric[:, pair[some]], inside[:, some])
        for some in torch.arange(len(rest)).split(_NODES)
    ]
    effect, error, freedom = (torch.cat(column) for column in zip(*pieces, strict=True))
    level = 1 - (1 - confidence) / (2 * max(1, len(rest)))
    width = torch.from_numpy(student.ppf(level, freedom.numpy())) * error
    return SubsetBound(rest, effect, effect.abs() + width)


def _patched_together(contrast: Contrast, chosen: Tensor) -> Tensor:
    """The metric [pairs] where all these nodes are patched at once."""
    changes: dict[Place, Change] = {}
    start = 0
    for nodes in contrast.nodes:
        here = chosen[(chosen >= start) & (chosen < start + len(nodes.table))] - start
        if len(here):
            changes[nodes.place] = _after(changes.get(nodes.place), nodes, here)
        start += len(nodes.table)
    trace = traced(contrast.model, repeated(contrast.pairs.clean, 1), changes=changes)
    return evaluated(contrast.metric, trace.logits, len(contrast.pairs))[0]


def _after(before: Change | None, nodes: Nodes, here: Tensor) -> Change:
    here = here.to(nodes.table.pair.device)
    rows = nodes.table.pair[here]
    return lambda x: nodes.patched(x if before is None else before(x), rows, here)


def _welch(values: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean difference, its standard error and Welch's degrees of freedom, [n] each."""
    parts = []
    for member in (inside, ~inside):
        count = member.sum(0).double().clamp_min(2)
        mean = (values * member).sum(0) / count
        spread = ((values - mean).square() * member).sum(0) / (count - 1) / count
        parts.append((count, mean, spread))
    (n, mean, s), (n2, mean2, s2) = parts
    squared = (s + s2).clamp_min(torch.finfo(torch.float64).tiny)
    freedom = squared.square() / (s.square() / (n - 1) + s2.square() / (n2 - 1)).clamp_min(1e-300)
    return mean - mean2, (s + s2).sqrt(), freedom.clamp(1, len(inside))


def _check(confidence: float, sample: int) -> None:
    if not 0 < confidence < 1 or sample < 1:
        raise ConfigError(
            f"Got confidence {confidence} and a sample of {sample}; wanted a confidence between 0 "
            "and 1, and at least one node."
        )
