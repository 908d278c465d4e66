"""How far a graph can be trusted: single latents are taken away, and what changes is compared.

Frozen: the prompt runs again with patterns, norm scales and what MLPs write as they were, but
without what one latent writes. Every later pre-activation and logit must change by -A[t, s]: it is
what the edges claim, and holds to rounding.

Unfrozen: the model runs as it is, without what the latent writes. What the graph expects of that is
the effect along all of its paths: with relative changes r of activations and r_s = -1,

    a_t r_t = Σ_s A[t, s] r_s        and for a logit   Δ = Σ_s A[logit, s] r_s

This assumes that the same latents stay active and that patterns, scales and errors stay. How well
expected and real changes of the logits agree says how much of it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from bathyscope.attribution.graphs.blocks import row_blocks
from bathyscope.attribution.graphs.build import AttributionGraph
from bathyscope.attribution.graphs.graph import Graph
from bathyscope.attribution.graphs.order import Order, order_of
from bathyscope.attribution.graphs.removal import changes_without
from bathyscope.metrics.agreement import pearson, spearman, topk_recall
from bathyscope.models.frozen import pinned
from bathyscope.values import Json

_TOP = 10


@dataclass(frozen=True)
class GraphTrust:
    """What a sample of latents showed. Correlations are NaN where they are not defined."""

    latents: tuple[int, ...]
    """The nodes that were taken away, one at a time."""
    frozen_error: float
    """Largest |real + A[t, s]| over all later latents and logits, of the largest |A[t, s]|."""
    expected: np.ndarray
    """[sample, logits]: changes of logits (less their mean over the vocabulary) by the graph."""
    real: np.ndarray
    """[sample, logits]: in the model as it is."""
    pearson: float
    spearman: float
    recall: float
    """Of the `_TOP` latents with most real effect on the first logit, the share found."""
    latents_pearson: float
    """Of the pre-activations of later latents, expected against real."""
    relative_error: float
    """|expected - real| / |real|, both as vectors over sample and logits."""

    def to_json(self) -> Json:
        """Plain numbers; NaN as null."""

        def number(value: float) -> float | None:
            return None if value != value else value

        return {
            "sample": len(self.latents),
            "frozen_error": number(self.frozen_error),
            "logits": {
                "pearson": number(self.pearson),
                "spearman": number(self.spearman),
                f"top{_TOP}_recall": number(self.recall),
                "relative_error": number(self.relative_error),
            },
            "later_latents": {"pearson": number(self.latents_pearson)},
        }


@torch.no_grad()
def graph_trust(
    model: nn.Module,
    found: AttributionGraph,
    influence: np.ndarray,
    *,
    sample: int = 32,
    batch: int = 8,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> GraphTrust:
    """Take away `sample` latents one at a time, `batch` in one forward.

    Half of them are those with most `influence` [nodes], half are drawn from the others. The graph
    must hold all entries of its rows (not truncated), or expected changes lack what was dropped.
    """
    chosen = _sample(found, influence, sample, seed)
    frozen, unfrozen = [], []
    for start in range(0, len(chosen), batch):
        check()
        part = chosen[start : start + batch]
        with pinned(model):
            frozen.append(changes_without(model, found, part, hold=True))
        unfrozen.append(changes_without(model, found, part, hold=False))
    return _compared(found, chosen, _joined(frozen, found), _joined(unfrozen, found))


def _compared(
    found: AttributionGraph, chosen: np.ndarray, held: np.ndarray, real: np.ndarray
) -> GraphTrust:
    order = order_of(found.graph)
    later = _later(found, chosen)
    expected = _expected(found, order, chosen)
    num = len(found.nodes.latents)
    direct = -_edges_from(found, order, chosen)
    size = np.abs(direct).max(initial=0.0)
    error = np.abs((held - direct)[later]).max(initial=0.0)
    return GraphTrust(
        latents=tuple(chosen.tolist()),
        frozen_error=float(error / size) if size > 0 else 0.0,
        expected=expected[:, num:],
        real=real[:, num:],
        pearson=pearson(real[:, num:].ravel(), expected[:, num:].ravel()),
        spearman=spearman(real[:, num:].ravel(), expected[:, num:].ravel()),
        recall=topk_recall(real[:, num], expected[:, num], _TOP) if len(chosen) else float("nan"),
        latents_pearson=pearson(real[:, :num][later[:, :num]], expected[:, :num][later[:, :num]]),
        relative_error=_relative(expected[:, num:], real[:, num:]),
    )


def _joined(changes: list[Tensor], found: AttributionGraph) -> np.ndarray:
    """[sample, latents + logits]."""
    width = len(found.nodes.latents) + len(found.nodes.logits.token)
    return torch.cat([torch.zeros(0, width, dtype=torch.float64), *changes]).numpy()


def _relative(expected: np.ndarray, real: np.ndarray) -> float:
    size = float(np.linalg.norm(real))
    return float(np.linalg.norm(expected - real)) / size if size > 0 else float("nan")


def _sample(found: AttributionGraph, influence: np.ndarray, sample: int, seed: int) -> np.ndarray:
    num = len(found.nodes.latents)
    order = np.argsort(-influence[:num], kind="stable")
    top, rest = order[: sample // 2], order[sample // 2 :]
    drawn = np.random.default_rng(seed).permutation(rest)[: sample - len(top)]
    return np.sort(np.concatenate([top, drawn]).astype(np.int64))


def _edges_from(found: AttributionGraph, order: Order, chosen: np.ndarray) -> np.ndarray:
    """[sample, latents + logits]: A[t, s] of the chosen sources s."""
    graph, num = found.graph, len(found.nodes.latents)
    sample = np.full(graph.num_nodes, -1)
    sample[chosen] = np.arange(len(chosen))
    edges = np.zeros((len(chosen), num + graph.num_logits))
    for run in order.upward():
        for block in row_blocks(graph, run):
            here = sample[block.indices]
            hit = here >= 0
            targets = block.spread(_place(block.rows, graph, num))
            edges[here[hit], targets[hit]] = block.values[hit]
    return edges


def _expected(found: AttributionGraph, order: Order, chosen: np.ndarray) -> np.ndarray:
    """[sample, latents + logits]: changes of what targets read, along all paths.

    By forward substitution: sources come before their targets.
    """
    graph, num = found.graph, len(found.nodes.latents)
    values = found.nodes.latents.value.double().cpu().numpy()
    taken = np.zeros((num, len(chosen)))
    taken[chosen, np.arange(len(chosen))] = -1.0
    r, read = taken.copy(), np.zeros((num + graph.num_logits, len(chosen)))
    for run in order.upward():
        for block in row_blocks(graph, run):
            ends = np.concatenate([[0], np.cumsum(block.lengths)])
            shape = (len(block.rows), graph.num_nodes)
            A = sparse.csr_array(
                (block.values.astype(np.float64), block.indices, ends), shape=shape
            )
            change = A[:, :num] @ r
            read[_place(block.rows, graph, num)] = change
            latent = block.rows < num
            rows = block.rows[latent]
            r[rows] = taken[rows] + change[latent] / values[rows, None]
    return read.T


def _place(rows: np.ndarray, graph: Graph, num: int) -> np.ndarray:
    """Where targets stand among latents and logits."""
    place: np.ndarray = np.where(rows < num, rows, rows - graph.first_logit + num)
    return place


def _later(found: AttributionGraph, chosen: np.ndarray) -> np.ndarray:
    """bool [sample, latents + logits]: targets that read after the latent's part."""
    part = found.nodes.latents.part.cpu().numpy()
    logits = np.ones((len(chosen), len(found.nodes.logits.token)), dtype=bool)
    return np.concatenate([part[None] > part[chosen][:, None], logits], axis=1)
