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

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from bathyscope.attribution.graphs.blocks import row_blocks
from bathyscope.attribution.graphs.build import AttributionGraph
from bathyscope.attribution.graphs.forward import unembedding_path
from bathyscope.attribution.graphs.graph import Graph
from bathyscope.attribution.graphs.order import Order, order_of
from bathyscope.attribution.graphs.replacement import Part, encoder_rows
from bathyscope.metrics.agreement import pearson, spearman, topk_recall
from bathyscope.models.capture import find_module, first_argument, first_output
from bathyscope.models.frozen import pinned
from bathyscope.models.hook_points import HookPoint, resolve
from bathyscope.models.splice import spliced
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
            frozen.append(_changes(model, found, part, hold=True))
        unfrozen.append(_changes(model, found, part, hold=False))
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


def _changes(model: nn.Module, found: AttributionGraph, part: np.ndarray, *, hold: bool) -> Tensor:
    """[b, latents + logits]: what targets read, less what they read with nothing taken away.

    Row 0 of the batch is the prompt as it is. With `hold` all rows have its MLP outputs.
    """
    nodes = found.nodes
    taken = _taken(found, part)
    read: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in dict.fromkeys(p.reads for p in nodes.parts):
            stack.enter_context(_seen(model, resolve(model, name), read))
        skips = {p.writes[0].hook_point: p for p in nodes.parts if p.coder.W_skip is not None}
        for name in nodes.written:

            def replace(y: Tensor, name: str = name) -> Tensor:
                base = y[:1].expand_as(y) if hold else y
                if hold and name in skips:
                    base = base + _skipped(skips[name], read, found)
                return base - taken[name].to(y) if name in taken else base

            stack.enter_context(spliced(model, resolve(model, name), replace))
        head = HookPoint("unembedding", unembedding_path(model), "in", None)
        stack.enter_context(_seen(model, head, read))
        model(input_ids=found.tokens[None].expand(len(part) + 1, -1), use_cache=False)
    columns = [_reads(read[p.reads], number, found) for number, p in enumerate(nodes.parts)]
    final = read["unembedding"][:, -1]
    columns.append(final @ nodes.logits.vector.to(final).T)
    values = torch.cat(columns, dim=1).double()
    return (values[1:] - values[:1]).cpu()


def _skipped(part: Part, read: dict[str, Tensor], found: AttributionGraph) -> Tensor:
    """[batch, P, d_out]: what the skip connection adds to the first row's output."""
    x, W_skip = read[part.reads], part.coder.W_skip
    assert W_skip is not None
    return ((x - x[:1]) @ W_skip.to(x).T) * found.keep[None, :, None]


def _reads(x: Tensor, number: int, found: AttributionGraph) -> Tensor:
    """[batch, latents of a part]: w · x at the position of each."""
    latents = found.nodes.latents.select(found.nodes.latents.part == number)
    w = encoder_rows(found.nodes.parts[number], latents.latent)[0].to(x)
    return torch.einsum("bnd,nd->bn", x[:, latents.position], w)


def _taken(found: AttributionGraph, part: np.ndarray) -> dict[str, Tensor]:
    """Hook point to write -> [b + 1, P, d_out]: what the latent of each row writes there."""
    nodes = found.nodes
    taken: dict[str, Tensor] = {}
    for row, node in enumerate(part.tolist(), start=1):
        of = nodes.parts[int(nodes.latents.part[node])]
        position, value = int(nodes.latents.position[node]), nodes.latents.value[node]
        vector = of.coder.W_dec[nodes.latents.latent[node]] * value
        for block in of.writes:
            shape = (len(part) + 1, nodes.num_positions, block.width)
            at = taken.setdefault(block.hook_point, vector.new_zeros(shape))
            at[row, position] += vector[block.columns]
    return taken


@contextmanager
def _seen(model: nn.Module, point: HookPoint, into: dict[str, Tensor]) -> Iterator[None]:
    module = find_module(model, point)
    if point.side == "in":
        handle = module.register_forward_pre_hook(
            lambda _, args, kwargs: into.__setitem__(
                point.name, first_argument(point, args, kwargs)[1].detach()
            ),
            with_kwargs=True,
        )
    else:
        handle = module.register_forward_hook(
            lambda _, __, output: into.__setitem__(point.name, first_output(point, output).detach())
        )
    try:
        yield
    finally:
        handle.remove()
