"""Hands our own implementations to scripts that time several: a training step, a pruned graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bathyscope.attribution.graphs.blocks import row_blocks
from bathyscope.attribution.graphs.doubt import doubt_of
from bathyscope.attribution.graphs.graph import Bools, Graph, Ints
from bathyscope.attribution.graphs.order import order_of, targets
from bathyscope.attribution.graphs.prune import prune
from bathyscope.attribution.graphs.refine import rows_in_doubt, with_full_rows
from bathyscope.attribution.graphs.rows import SHARE, RowWriter
from bathyscope.attribution.graphs.scores import scores_of
from bathyscope.dictionaries.dictionary import topk_autoencoder
from bathyscope.training.step import Step, StepSettings

AUXK_WEIGHT = 1 / 32


class TopKAdapter:
    """`Step` of a TopK autoencoder behind `step(x) -> loss` and `weights()`."""

    def __init__(self, weights: dict[str, Tensor], k: int, lr: float, dead: Tensor | None) -> None:
        num_latents, d_in = weights["W_enc"].shape
        dictionary = topk_autoencoder(d_in=d_in, num_latents=num_latents, k=k, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in dictionary.named_parameters():
                parameter.copy_(weights[name])
        auxk_weight = 0.0 if dead is None else AUXK_WEIGHT
        settings = StepSettings(auxk_weight=auxk_weight, dead_after_tokens=2**40)
        self._step = Step(dictionary, settings, lr=lr)
        self._dead = dead

    def step(self, x: Tensor) -> float:
        """One training step on rows [rows, d]."""
        if self._dead is not None:
            # The dead latents are given and stay: as if they had been silent for long.
            self._step.silent_tokens[0][:] = self._dead.long() * 2**40
        return self._step.step(x).loss

    def weights(self) -> dict[str, Tensor]:
        """The weights as they are now."""
        return {n: p.detach() for n, p in self._step.dictionary.named_parameters()}


def topk_step(
    weights: dict[str, Tensor], k: int, lr: float, dead: Tensor | None = None
) -> TopKAdapter:
    """A TopK training step that starts from `weights`; `dead` is a bool mask for AuxK."""
    return TopKAdapter(weights, k, lr, dead)


def prune_graph(graph: dict[str, Any]) -> tuple[Bools, Ints, float, float]:
    """Nodes and edges kept of a graph, and its replacement and completeness scores."""
    whole = _graph(graph)
    order = order_of(whole)
    pruned = prune(whole, order=order)
    scores = scores_of(whole, pruned.influence.nodes)
    return pruned.nodes, pruned.edges.positions(), scores.replacement, scores.completeness


def _graph(graph: dict[str, Any]) -> Graph:
    return Graph(
        graph["indptr"],
        graph["indices"],
        graph["values"],
        graph["num_features"],
        graph["num_errors"],
        graph["num_tokens"],
        graph["num_logits"],
        graph["logit_probabilities"],
    )


def prune_graph_truncated(graph: dict[str, Any]) -> tuple[Bools, Ints, float, float]:
    """The same of rows truncated to 0.999 of their mass, those that matter taken again in full.

    Prints what truncation can have changed.

    What the figures can differ from those of the whole graph is known without the whole graph.
    """
    whole = _graph(graph)
    writer = RowWriter(
        whole.num_latents, whole.num_errors, whole.num_tokens, whole.num_logits, share=SHARE
    )
    for block in row_blocks(whole, targets(whole)):
        parts = (block.rows, block.lengths, block.indices, block.values)
        writer.add_sparse(*(torch.from_numpy(np.array(part)) for part in parts))
    kept = writer.finish(whole.logit_probabilities)
    order = order_of(kept)
    pruned = prune(kept, order=order)
    # As bathyscope attribute does it: the few rows whose tails may matter are taken in full.
    again = rows_in_doubt(kept, order, pruned)
    kept = with_full_rows(kept, whole, again)
    order = order_of(kept)
    pruned = prune(kept, order=order)
    doubt = doubt_of(kept, order)
    bounds = doubt.scores
    at_least = doubt.node_jaccard(pruned.nodes), doubt.edge_jaccard(pruned.edges)
    print(
        f"{len(again)} rows in full; kept {kept.num_edges} of {whole.num_edges} edges; "
        f"Jaccard to exact pruning at least "
        f"{at_least[0]:.4f} (nodes), {at_least[1]:.4f} (edges); "
        f"replacement {bounds.low.replacement:.5f} to {bounds.up.replacement:.5f}, "
        f"completeness {bounds.low.completeness:.5f} to {bounds.up.completeness:.5f}",
        flush=True,
    )
    scores = scores_of(kept, pruned.influence.nodes)
    positions = _positions(whole, kept)[pruned.edges.positions()]
    return pruned.nodes, positions, scores.replacement, scores.completeness


def _positions(whole: Graph, kept: Graph) -> Ints:
    """Where the entries of a truncated graph are among those of the whole one."""
    least = np.full(whole.num_nodes, np.inf)
    for block in row_blocks(kept, targets(kept)):
        np.minimum.at(least, block.spread(block.rows), block.mass())
    found = [
        block.positions()[block.mass() >= block.spread(least[block.rows])]
        for block in row_blocks(whole, targets(whole))
    ]
    return np.concatenate(found)
