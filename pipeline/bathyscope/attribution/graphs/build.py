"""The attribution graph of a prompt (Ameisen et al. 2025, "Circuit Tracing: Revealing
Computational Graphs in Language Models", Transformer Circuits Thread).

    A[t, s] = (what s writes) · J · (what t reads)

J is the Jacobian of the model with attention patterns, norm scales and MLPs frozen. Sources are
active latents, errors (what the model's MLPs write less what dictionaries make of it) and tokens;
targets are latents and the most probable next tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from bathyscope.attribution.graphs.budget import budget, check_edges
from bathyscope.attribution.graphs.forward import FrozenForward, run_frozen
from bathyscope.attribution.graphs.gradients import Rows, bias_names, rows
from bathyscope.attribution.graphs.graph import Graph
from bathyscope.attribution.graphs.nodes import (
    Nodes,
    active_latents,
    chosen_logits,
    error_vectors,
)
from bathyscope.attribution.graphs.replacement import Replacement
from bathyscope.attribution.graphs.rows import RowWriter
from bathyscope.attribution.graphs.selection import most_influential, with_latents
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import GraphError

_STEPS = 4
"""Batches of rows between two choices of latents."""


@dataclass(frozen=True)
class GraphSettings:
    """What of a prompt becomes a graph."""

    logit_tokens: tuple[int, ...] = ()
    """Tokens to explain; empty takes the most probable."""
    logit_probability: float = 0.95
    """Probability that these reach together."""
    most_logits: int = 10
    most_latents: int = 7500
    """Latents that are nodes; what the others write counts as error."""
    row_share: float | None = None
    """Share of a row's mass that is kept (0.999), with bounds on the rest; None keeps all."""
    memory_bytes: int = 8 * 2**30
    """For gradients and edges."""
    tolerance: float = 1e-3
    """How far the sum of a row may be from what its target reads, of all that went in."""


@dataclass(frozen=True)
class AttributionGraph:
    """A prompt's nodes and what each gives to each."""

    tokens: Tensor
    """int64 [P]."""
    keep: Tensor
    """bool [P]: where dictionaries stand for the model."""
    nodes: Nodes
    graph: Graph
    biases: Tensor
    """float32 [latents + logits, bias nodes]: what biases give to each target."""
    bias_names: tuple[str, ...]
    num_active: int
    """Active latents of the prompt, of which `nodes` has the chosen ones."""
    missing: float
    """The largest share by which the sum of a row missed what its target reads."""

    def error_of_latent(self) -> np.ndarray:
        """The error node at the place where each latent writes first [latents]."""
        nodes = self.nodes
        written = [nodes.written.index(part.writes[0].hook_point) for part in nodes.parts]
        place = torch.tensor(written)[nodes.latents.part] * nodes.num_positions
        return (place + nodes.latents.position).cpu().numpy()


def attribution_graph(
    model: nn.Module,
    dictionaries: dict[str, AnyDictionary],
    tokens: Tensor,
    *,
    keep: Tensor | None = None,
    settings: GraphSettings | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> AttributionGraph:
    """The graph of tokens int64 [P]; dictionaries stand where keep bool [P] is true.

    Without `keep` that is everywhere but at the first position. Raises what `run_frozen`,
    `Replacement` and `budget` raise, and `GraphError` where a row does not add up to what its
    target reads: the model has a path that is not linear and not known.
    """
    settings = settings or GraphSettings()
    if keep is None:
        keep = torch.arange(len(tokens), device=tokens.device) > 0
    replacement = Replacement(model, dictionaries)
    forward = run_frozen(model, replacement, tokens, keep)
    nodes = all_nodes(model, forward, replacement, settings)
    room = budget(forward, nodes, settings.most_latents, settings.memory_bytes)
    if settings.row_share is None:
        check_edges(room, nodes, settings.most_latents, settings.memory_bytes)
    rows_of = partial(rows, forward, replacement, nodes, batch=room.batch)
    chosen = most_influential(nodes, rows_of, settings.most_latents, step=_STEPS * room.batch)
    num_active, nodes = len(nodes.latents), with_latents(nodes, chosen)
    return _written(forward, replacement, nodes, settings, room.batch, num_active, progress)


def all_nodes(
    model: nn.Module, forward: FrozenForward, replacement: Replacement, settings: GraphSettings
) -> Nodes:
    """The nodes of a forward with every active latent."""
    parts = forward.parts_of(replacement)
    latents = active_latents(forward, parts)
    errors = error_vectors(forward, replacement, parts, latents)
    logits = chosen_logits(
        model,
        forward,
        tokens=settings.logit_tokens,
        probability=settings.logit_probability,
        most=settings.most_logits,
    )
    return Nodes(tuple(parts), latents, tuple(errors), tuple(errors.values()), logits)


def _written(
    forward: FrozenForward,
    replacement: Replacement,
    nodes: Nodes,
    settings: GraphSettings,
    batch: int,
    num_active: int,
    progress: Callable[[float], None],
) -> AttributionGraph:
    num_latents, num_logits = len(nodes.latents), len(nodes.logits.token)
    writer = RowWriter(
        num_latents, nodes.num_errors, nodes.num_positions, num_logits, share=settings.row_share
    )
    names = bias_names(forward, replacement)
    biases = torch.zeros(num_latents + num_logits, len(names))
    targets = torch.cat([torch.arange(num_latents), nodes.num_sources + torch.arange(num_logits)])
    missing, done = 0.0, 0
    for found in rows(forward, replacement, nodes, targets, batch=batch):
        missing = max(missing, _checked(found, settings.tolerance))
        writer.add(found.targets, found.values)
        _check_size(writer, settings)
        place = torch.where(
            found.targets < num_latents,
            found.targets,
            found.targets - nodes.num_sources + num_latents,
        )
        biases[place.cpu()] = found.biases.cpu()
        done += len(found.targets)
        progress(done / len(targets))
    probabilities = nodes.logits.probability.double().cpu().numpy()
    graph = writer.finish(probabilities)
    return AttributionGraph(
        forward.tokens, forward.keep, nodes, graph, biases, tuple(names), num_active, missing
    )


def _checked(found: Rows, tolerance: float) -> float:
    worst = float(found.missing.max())
    if not worst <= tolerance:
        row = int(found.missing.argmax())
        raise GraphError(
            f"The row of node {int(found.targets[row])} adds up to something else than its target "
            f"reads: {worst:.2g} of all that went in is missing, and {tolerance:.2g} is allowed. "
            "Load the model in float32 (model.dtype=float32); if it stays, the model has a path "
            "between its parts that is not linear and not known here."
        )
    return worst


def _check_size(writer: RowWriter, settings: GraphSettings) -> None:
    from bathyscope.attribution.graphs.budget import EDGE_BYTES

    held = writer.num_edges * EDGE_BYTES
    if held > settings.memory_bytes * 3 // 4:
        raise GraphError(
            f"The edges so far take {held / 1e9:.2f} GB, and the budget is "
            f"{settings.memory_bytes / 1e9:.2f} GB. Set a smaller attribute.most_latents or "
            "attribute.row_share, or raise attribute.memory_bytes."
        )
