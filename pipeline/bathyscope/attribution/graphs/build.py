"""The attribution graph of a prompt (Ameisen et al. 2025, "Circuit Tracing: Revealing
Computational Graphs in Language Models", Transformer Circuits Thread).

    A[t, s] = (what s writes) · J · (what t reads)

J is the Jacobian of the model with attention patterns, norm scales and MLPs frozen. Sources are
active latents, errors (what the model's MLPs write less what dictionaries make of it) and tokens;
targets are latents and the most probable next tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bathyscope.attribution.graphs.budget import budget, check_edges
from bathyscope.attribution.graphs.forward import FrozenForward, run_frozen
from bathyscope.attribution.graphs.gradients import bias_names, rows
from bathyscope.attribution.graphs.graph import Graph
from bathyscope.attribution.graphs.nodes import (
    Nodes,
    active_latents,
    chosen_logits,
    error_vectors,
)
from bathyscope.attribution.graphs.order import Order
from bathyscope.attribution.graphs.pieces import Piece, joined, piece_of
from bathyscope.attribution.graphs.prune import Pruned
from bathyscope.attribution.graphs.refine import rows_in_doubt, with_full_rows
from bathyscope.attribution.graphs.replacement import Replacement
from bathyscope.attribution.graphs.selection import most_influential, with_latents
from bathyscope.dictionaries.kinds import AnyDictionary

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
    spool: Path | None = None
    """Local folder for the edges, which may then be more than the memory; None holds them there."""
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
    made = prepared(model, dictionaries, tokens, keep=keep, settings=settings)
    return assembled(made, [made.piece(made.targets, progress=progress)])


@dataclass(frozen=True)
class Prepared:
    """A prompt's forward and its nodes, before rows are taken."""

    forward: FrozenForward
    replacement: Replacement
    nodes: Nodes
    chosen: Tensor
    """int64: which of the active latents are nodes."""
    num_active: int
    batch: int
    """Targets of one backward pass."""
    settings: GraphSettings

    @property
    def targets(self) -> Tensor:
        """The number of every target: latents, then logits."""
        logits = self.nodes.num_sources + torch.arange(len(self.nodes.logits.token))
        return torch.cat([torch.arange(len(self.nodes.latents)), logits])

    def share(self, part: int, parts: int) -> Tensor:
        """Every `parts`-th target from `part` on: rows of late layers cost more than of early."""
        return self.targets[part::parts]

    def piece(
        self, targets: Tensor, *, progress: Callable[[float], None] = lambda _: None
    ) -> Piece:
        """The rows of some targets. Raises what `piece_of` raises."""
        found = rows(self.forward, self.replacement, self.nodes, targets, batch=self.batch)
        return piece_of(
            found,
            self.nodes,
            len(targets),
            row_share=self.settings.row_share,
            memory_bytes=self.settings.memory_bytes,
            tolerance=self.settings.tolerance,
            spool=self.settings.spool,
            progress=progress,
        )


def prepared(
    model: nn.Module,
    dictionaries: dict[str, AnyDictionary],
    tokens: Tensor,
    *,
    keep: Tensor | None = None,
    settings: GraphSettings | None = None,
    chosen: Tensor | None = None,
) -> Prepared:
    """Run the prompt, find its nodes, and see to it that the graph fits.

    `chosen` are the latents that are nodes, where they are known. Raises as `attribution_graph`.
    """
    settings = settings or GraphSettings()
    if keep is None:
        keep = torch.arange(len(tokens), device=tokens.device) > 0
    replacement = Replacement(model, dictionaries)
    forward = run_frozen(model, replacement, tokens, keep)
    nodes = all_nodes(model, forward, replacement, settings)
    room = budget(forward, nodes, settings.most_latents, settings.memory_bytes)
    if settings.row_share is None and settings.spool is None:
        check_edges(room, nodes, settings.most_latents, settings.memory_bytes)
    if chosen is None:
        rows_of = partial(rows, forward, replacement, nodes, batch=room.batch)
        step = _STEPS * room.batch
        chosen = most_influential(nodes, rows_of, settings.most_latents, step=step)
    selected = with_latents(nodes, chosen)
    return Prepared(
        forward, replacement, selected, chosen, len(nodes.latents), room.batch, settings
    )


def assembled(made: Prepared, pieces: Sequence[Piece]) -> AttributionGraph:
    """The graph of pieces that together have a row for each target.

    Raises `GraphError` where one has none, or two.
    """
    whole = joined(pieces, made.nodes, spool=made.settings.spool)
    names = bias_names(made.forward, made.replacement)
    forward = made.forward
    return AttributionGraph(
        forward.tokens, forward.keep, made.nodes, whole.graph, whole.biases, tuple(names),
        made.num_active, whole.missing,
    )  # fmt: skip


def refined(
    made: Prepared, found: AttributionGraph, order: Order, pruned: Pruned, node_threshold: float
) -> AttributionGraph:
    """The same with those rows in full whose dropped entries matter to pruning.

    An exact graph stays as it is.
    """
    if found.graph.dropped is None:
        return found
    targets = rows_in_doubt(found.graph, order, pruned, node_threshold)
    exact = replace(made, settings=replace(made.settings, row_share=None))
    full = exact.piece(torch.from_numpy(targets)).graph
    graph = with_full_rows(found.graph, full, targets, spool=made.settings.spool)
    return replace(found, graph=graph)


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
