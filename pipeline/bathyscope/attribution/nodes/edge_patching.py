"""Edges patched exactly: one reader alone sees what one writer writes on the corrupted prompt.

    m(input of v <- input of v + write'_u - write_u) - m(clean)

The first forward carries the changed stream to the reader's queries, keys, values or MLP input, the
second one puts them there and nowhere else. All positions of a writer go together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bathyscope.attribution.nodes.components import Component, Components
from bathyscope.attribution.nodes.contrasts import Contrast
from bathyscope.attribution.nodes.edges import EdgeScores, write_changes
from bathyscope.attribution.nodes.forward import traced
from bathyscope.attribution.nodes.metrics import evaluated, require_finite
from bathyscope.attribution.nodes.pairs import repeated
from bathyscope.attribution.nodes.places import Change, Place, place_of
from bathyscope.errors import ConfigError
from bathyscope.models.attention import AttentionPart

Edges = Sequence[tuple[Component, Component]]


@torch.no_grad()
def exact_edges(scores: EdgeScores, edges: Edges, *, rows_per_forward: int = 32) -> Tensor:
    """The exact effects of some edges, [pairs, edges]. Raises ConfigError for one that is none."""
    parts, problem = scores.components, scores.contrast
    for writer, reader in edges:
        if not parts.exists(writer, reader):
            raise ConfigError(f"There is no edge {writer} -> {reader}: it runs against the order.")
    changes = write_changes(problem, parts)
    size = len(problem.pairs)
    effects = problem.clean_metric.new_zeros(size, len(edges))
    groups: dict[tuple[Place, ...], list[int]] = {}
    for number, (_, reader) in enumerate(edges):
        groups.setdefault((parts.stream(reader), *parts.inputs(reader)), []).append(number)
    per_forward = max(1, rows_per_forward // size)
    for numbers in groups.values():
        for first in range(0, len(numbers), per_forward):
            some = numbers[first : first + per_forward]
            added = torch.cat([parts.write_of(changes, edges[n][0]) for n in some])
            metric = _patched(problem, parts, [edges[n][1] for n in some], added)
            effects[:, some] = (metric - problem.clean_metric).T
    return require_finite("The metric of a patched forward", effects)


def _patched(
    problem: Contrast, parts: Components, readers: list[Component], added: Tensor
) -> Tensor:
    """The metric [readers, pairs] where each reader alone reads the stream with `added`.

    The readers have one kind of input; `added` is [readers · pairs, positions, d].
    """
    inputs, places = repeated(problem.pairs.clean, len(readers)), parts.inputs(readers[0])
    shifted = _shifted(parts, readers[0])
    changes: dict[Place, Change] = {shifted: lambda x: x + added.to(x.dtype)}
    with problem.resumed(shifted, len(readers)):
        trace = traced(problem.model, inputs, places, changes=changes)
        if places:
            changes = {p: _put(trace.tensors[p], p, readers) for p in places}
            trace = traced(problem.model, inputs, changes=changes)
    return evaluated(problem.metric, trace.logits, len(problem.pairs))


def _shifted(parts: Components, reader: Component) -> Place:
    """Where to add to the stream so that the reader reads the sum."""
    if reader.kind == "mlp" and not parts.parallel:
        return place_of(parts.model, f"attn_out.{reader.layer}")
    return parts.stream(reader)


def _put(seen: Tensor, place: Place, readers: list[Component]) -> Callable[[Tensor], Tensor]:
    if not isinstance(place, AttentionPart) or readers[0].head < 0:
        return lambda x: seen.to(x.dtype)
    size = len(seen) // len(readers)

    def put(x: Tensor) -> Tensor:
        out = x.clone()
        for number, reader in enumerate(readers):
            rows = slice(number * size, (number + 1) * size)
            out[rows, :, reader.head] = seen[rows, :, reader.head]
        return out

    return put
