"""Hands our own implementations to scripts that time several: a training step, a pruned graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bathyscope.attribution.graphs.graph import Bools, Graph, Ints
from bathyscope.attribution.graphs.order import order_of
from bathyscope.attribution.graphs.prune import prune
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
