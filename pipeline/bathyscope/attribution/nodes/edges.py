"""Edges between components: EAP and EAP-IG.

    score(u -> v) = <write'_u - write_u, ∂m/∂(input of v)>

The input of v is the residual stream as v alone reads it, so the gradient goes back from v's
queries, keys, values or MLP input through the norm, and no further. EAP (Syed et al. 2023,
arXiv:2310.10348) takes it at the clean prompts. EAP-IG (Hanna et al. 2024, arXiv:2403.17806)
averages it while the embeddings go from clean to corrupted, here at midpoints.

Writes are made for some writers at a time and gradients for some readers of a layer, so that no
[pairs, positions, writers, d] exists. Edges into a reader must add up to the change of the stream
that it reads; where they do not, a write was missed or counted twice, and that is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bathyscope.attribution.nodes.components import Component, Components
from bathyscope.attribution.nodes.contrasts import Contrast, contrast, require_slope
from bathyscope.attribution.nodes.forward import Graph, graph_of, observing, traced
from bathyscope.attribution.nodes.metrics import Metric, wide
from bathyscope.attribution.nodes.pairs import Pairs
from bathyscope.attribution.nodes.places import Change, Place
from bathyscope.errors import ConfigError, HookPointError
from bathyscope.models.attention import AttentionPart
from bathyscope.models.capture import Inputs
from bathyscope.models.hook_points import HookPoint

WORKSPACE_BYTES = 1 << 28
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_ROUNDED_TOLERANCE = 5e-2


class Edge(NamedTuple):
    """One edge with its score, the mean over pairs."""

    writer: Component
    reader: Component
    score: float


@dataclass(frozen=True)
class EdgeScores:
    """A number for every edge and pair."""

    method: str
    contrast: Contrast
    components: Components
    values: Tensor
    """[pairs, writers, readers]; 0 where there is no edge."""
    exists: Tensor
    """bool [writers, readers]."""

    def top(self, count: int) -> list[Edge]:
        """The edges whose mean over pairs has the largest absolute value."""
        mean = self.values.mean(0)
        ranked = mean.abs().masked_fill(~self.exists, -1).flatten()
        order = ranked.sort(descending=True, stable=True).indices[
            : min(count, int(self.exists.sum()))
        ]
        width = mean.shape[1]
        return [
            Edge(
                self.components.writers[int(i) // width], self.components.readers[int(i) % width],
                float(mean.flatten()[i]),
            )
            for i in order
        ]  # fmt: skip


def edge_attribution(
    model: nn.Module,
    pairs: Pairs,
    metric: str | Metric,
    *,
    steps: int = 0,
    heads: bool = True,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> EdgeScores:
    """Score every edge: EAP, or EAP-IG with that many `steps`.

    Costs 2 forwards, and 1 (or `steps`) forwards and backwards. Raises HookPointError for a family
    whose writes are not known or do not add up to its stream, ConfigError as `contrast` does.
    """
    if steps < 0:
        raise ConfigError(f"steps is {steps}; wanted 0 for EAP, or a number of midpoints.")
    parts = Components(model, heads=heads)
    problem = contrast(model, pairs, metric, [], layers=parts.layers)
    if steps == 0:
        require_slope(problem, "EAP")
    changes = write_changes(problem, parts)
    alphas: list[float | None] = [(step + 0.5) / steps for step in range(steps)] or [None]
    values = _scores_at(problem, parts, changes, alphas[0], workspace_bytes)
    for alpha in alphas[1:]:
        values += _scores_at(problem, parts, changes, alpha, workspace_bytes)
    values /= len(alphas)
    exists = torch.tensor([[parts.exists(w, r) for r in parts.readers] for w in parts.writers])
    name = f"eap-ig-{steps}" if steps else "eap"
    return EdgeScores(name, problem, parts, values, exists.to(values.device))


def write_changes(problem: Contrast, parts: Components) -> dict[Place, Tensor]:
    """Corrupted less clean at the places of writes and of streams, 0 outside kept positions."""
    streams = [parts.stream(reader) for reader in parts.readers]
    observed = list(dict.fromkeys(p for p in streams if p.reads_residual_aside))
    places = list(
        dict.fromkeys([*parts.write_places(), *(p for p in streams if p not in observed)])
    )
    keep = problem.pairs.keep[:, :, None]
    clean, corrupted = (
        _tensors(problem.model, inputs, places, observed)
        for inputs in (problem.pairs.clean, problem.pairs.corrupted)
    )
    return {p: (corrupted[p] - x).to(wide(x)) * keep for p, x in clean.items()}


def _tensors(
    model: nn.Module, inputs: Inputs, places: Sequence[Place], observed: Sequence[HookPoint]
) -> dict[Place, Tensor]:
    seen: dict[Place, Tensor] = {}
    with observing(model, observed, seen):
        trace = traced(model, inputs, places)
    return {**trace.tensors, **seen}


def _scores_at(
    problem: Contrast, parts: Components, changes: Mapping[Place, Tensor], alpha: float | None,
    workspace_bytes: int,
) -> Tensor:  # fmt: skip
    """Scores [pairs, writers, readers] with gradients at one point of the path."""
    graph = _graph(problem, parts, changes, alpha)
    ends = [p for reader in parts.readers for p in parts.inputs(reader) or (parts.stream(reader),)]
    slopes = graph.gradients(list(dict.fromkeys(ends)))
    start = changes[parts.start]
    values = start.new_zeros(len(problem.pairs), len(parts.writers), len(parts.readers))
    at_a_time = max(1, workspace_bytes // 2 // (start.numel() * start.element_size()))
    for block in _reader_blocks(parts, at_a_time):
        gradients = torch.stack([_gradient(graph, slopes, parts, parts.readers[r]) for r in block])
        gradients = gradients.to(start.dtype) * problem.pairs.keep[None, :, :, None]
        reader = parts.readers[block[0]]
        for writers, written in parts.writes(changes, reader, at_a_time=at_a_time):
            values[:, writers, block.start : block.stop] = torch.einsum(
                "wbtd,rbtd->bwr", written, gradients
            )
        total = torch.einsum("btd,rbtd->br", changes[parts.stream(reader)], gradients)
        _require_total(values[:, :, block.start : block.stop], total, reader, problem)
    return values


def _graph(
    problem: Contrast, parts: Components, changes: Mapping[Place, Tensor], alpha: float | None
) -> Graph:
    streams = [parts.stream(reader) for reader in parts.readers]
    observed = list(dict.fromkeys(p for p in streams if p.reads_residual_aside))
    read = [p for reader in parts.readers for p in parts.inputs(reader)]
    places = dict.fromkeys([parts.start, *read, *(p for p in streams if p not in observed)])
    moved: dict[Place, Change] = {}
    if alpha is not None:
        step = alpha * changes[parts.start]
        moved[parts.start] = lambda x: x.detach() + step.to(x.dtype)
    return graph_of(
        problem.model, problem.pairs.clean, list(places), problem.metric,
        pairs=len(problem.pairs), changes=moved, observed=observed,
    )  # fmt: skip


def _reader_blocks(parts: Components, at_a_time: int) -> Iterator[range]:
    """Readers of one stream and kind, some at a time: they read the same writers."""
    first = 0
    while first < len(parts.readers):
        stop, stream = first + 1, parts.stream(parts.readers[first])
        while (
            stop < len(parts.readers)
            and stop - first < at_a_time
            and parts.stream(parts.readers[stop]) == stream
            and (parts.readers[stop].kind == "mlp") == (parts.readers[first].kind == "mlp")
        ):
            stop += 1
        yield range(first, stop)
        first = stop


def _gradient(
    graph: Graph, slopes: Mapping[Place, Tensor], parts: Components, reader: Component
) -> Tensor:
    """∂m/∂(stream) along the way through one reader, [pairs, positions, d].

    `slopes` are ∂m/∂(tensor) at the ends of readers' inputs.
    """
    stream, places = parts.stream(reader), parts.inputs(reader)
    if not places:
        return slopes[stream]
    (found,) = torch.autograd.grad(
        [graph.tensors[p] for p in places],
        graph.tensors[stream],
        [_own_head(slopes[p], p, reader) for p in places],
        retain_graph=True,
    )
    return found


def _own_head(gradient: Tensor, place: Place, reader: Component) -> Tensor:
    if not isinstance(place, AttentionPart) or reader.head < 0:
        return gradient
    own = torch.zeros_like(gradient)
    own[:, :, reader.head] = gradient[:, :, reader.head]
    return own


def _require_total(values: Tensor, total: Tensor, reader: Component, problem: Contrast) -> None:
    dtype = problem.clean.logits.dtype
    apart = (values.sum(1) - total).abs()
    scale = values.abs().sum(1) + total.abs()
    limit = _TOLERANCE.get(dtype, _ROUNDED_TOLERANCE)
    worst = float((apart / scale.clamp_min(1e-30)).max())
    # Where all edges are near 0 only rounding is left.
    if worst > limit and float(apart.max()) > limit * float(scale.max()):
        raise HookPointError(
            f"Edges into {reader} add up to {float(values.sum()):.6g}, and the change of the "
            f"stream that it reads is worth {float(total.sum()):.6g} ({worst:.1e} apart). A "
            "write to the stream is missing or counted twice, so edges would mislead: this model's "
            "blocks are not what the table of families says. Use nodes instead."
        )
