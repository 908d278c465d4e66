"""A contrast: a model, pairs, a metric and nodes, with both forwards run once.

Every method (`exact.py`, `linear.py`, `star.py`) takes one and returns `Scores`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bathyscope.attribution.nodes.bound import Nodes
from bathyscope.attribution.nodes.forward import Trace, require_context, traced
from bathyscope.attribution.nodes.metrics import Metric, evaluated, make_metric, require_finite
from bathyscope.attribution.nodes.node_sets import NodeSet
from bathyscope.attribution.nodes.pairs import Pairs
from bathyscope.attribution.nodes.places import Place, place_of
from bathyscope.errors import ConfigError
from bathyscope.models.hook_points import layer_numbers
from bathyscope.models.resume import blocks_return_tuple, resumed


@dataclass(frozen=True)
class Node:
    """One node with its score."""

    kind: str
    place: str
    pair: int
    position: int
    """-1 for all positions."""
    index: int
    """Head or latent; -1 for neither."""
    score: float


@dataclass(frozen=True)
class Contrast:
    """What methods start from."""

    model: nn.Module
    pairs: Pairs
    metric: Metric
    metric_name: str
    nodes: list[Nodes]
    clean: Trace
    corrupted: Trace
    clean_metric: Tensor
    """[pairs], at least float32."""
    corrupted_metric: Tensor
    """[pairs], at least float32."""
    streams: dict[int, Tensor]
    """Layer -> the clean stream before it, for the layers of nodes that have others before them."""
    blocks_return_tuple: bool

    @property
    def num_nodes(self) -> int:
        """Of all sets and pairs."""
        return sum(len(nodes.table) for nodes in self.nodes)

    @contextmanager
    def resumed(self, place: Place, groups: int) -> Iterator[None]:
        """Forwards of the clean pairs, `groups` times over, start at the block of a place.

        What comes before it is the same in all of them. Where the block is not known they start at
        the beginning.
        """
        stream = None if place.layer is None else self.streams.get(place.layer)
        if stream is None or place.layer is None:
            yield
            return
        hidden = stream.repeat(groups, 1, 1)
        tuples = self.blocks_return_tuple
        with resumed(self.model, place.layer, hidden, returns_tuple=tuples):
            yield

    @property
    def places(self) -> list[Place]:
        """The places of the nodes, each once."""
        return list(dict.fromkeys(nodes.place for nodes in self.nodes))


@dataclass(frozen=True)
class Scores:
    """A number for every node: the change of the metric that is said to come from it."""

    method: str
    contrast: Contrast
    values: list[Tensor]
    """[nodes] for each of the contrast's node sets, in the metric's unit."""
    signed: bool = True
    """False where scores are magnitudes, to be compared with those of exact effects."""

    def flat(self) -> Tensor:
        """All scores, set by set [nodes]."""
        return (
            torch.cat([v.to(self.values[0].device) for v in self.values])
            if self.values
            else torch.empty(0)
        )

    def top(self, count: int) -> list[Node]:
        """The nodes with the largest absolute scores; equals in the order of the nodes."""
        order = self.flat().abs().sort(descending=True, stable=True).indices[:count]
        return [self._node(int(i)) for i in order]

    def _node(self, number: int) -> Node:
        for nodes, values in zip(self.contrast.nodes, self.values, strict=True):
            if number < len(values):
                pair, position, index = (
                    int(column[number])
                    for column in (nodes.table.pair, nodes.table.position, nodes.table.index)
                )
                score = float(values[number])
                return Node(nodes.kind, nodes.place.name, pair, position, index, score)
            number -= len(values)
        raise IndexError(number)


@torch.no_grad()
def contrast(
    model: nn.Module,
    pairs: Pairs,
    metric: str | Metric,
    node_sets: Sequence[NodeSet],
    *,
    layers: Sequence[int] = (),
) -> Contrast:
    """Run the clean and the corrupted prompts, and find the nodes.

    `metric` is a name of `metrics.NAMES` or a function of logits. Forwards may resume at the layers
    of nodes, and at `layers`. Raises ConfigError for prompts that are longer than the context and
    for a metric that gives no number per pair, HookPointError where a node set does not fit the
    model, NonFiniteError for activations or metrics that are not finite.
    """
    require_context(model, pairs.positions)
    places = list(dict.fromkeys(p for nodes in node_sets for p in nodes.places(model)))
    starts = _starts(model, {*(p.layer for p in places), *layers})
    returned: list[bool] = []
    with blocks_return_tuple(model, returned):
        clean = traced(model, pairs.clean, [*places, *starts.values()])
    streams = {layer: clean.tensors[start] for layer, start in starts.items()}
    corrupted = traced(model, pairs.corrupted, places)
    for trace, which in ((clean, "clean"), (corrupted, "corrupted")):
        for place, tensor in trace.tensors.items():
            require_finite(f"{place.name} on the {which} prompts", tensor)
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "function")
    of = make_metric(metric, pairs, clean.logits) if isinstance(metric, str) else metric
    size = len(pairs)
    values = [evaluated(of, trace.logits, size)[0] for trace in (clean, corrupted)]
    for value, which in zip(values, ("clean", "corrupted"), strict=True):
        require_finite(f"The metric on the {which} prompts", value)
    nodes = [
        bound
        for node_set in node_sets
        for bound in node_set.bind(model, clean.tensors, corrupted.tensors, pairs)
    ]
    return Contrast(
        model, pairs, of, name, nodes, clean, corrupted, values[0], values[1], streams,
        blocks_return_tuple=any(returned),
    )  # fmt: skip


def _starts(model: nn.Module, layers: set[int | None]) -> dict[int, Place]:
    """Layer -> its input, for those of the layers that have others before them."""
    return {
        layer: place_of(model, f"resid_pre.{layer}")
        for layer in layer_numbers(model)[1:]
        if layer in layers
    }


def require_slope(contrast: Contrast, method: str) -> None:
    """Raise ConfigError for a metric that is flat at the clean prompts, where gradients are 0."""
    if contrast.metric_name == "kl":
        raise ConfigError(
            f"{method} takes the gradient at the clean prompts, where the KL divergence from them "
            "has its minimum: every score would be 0. Use logit_difference or log_probability, or "
            "exact patching or integrated gradients."
        )
