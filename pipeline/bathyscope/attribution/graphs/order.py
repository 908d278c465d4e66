"""The order in which a graph's targets can be computed, and the check of every entry.

Targets are cut into runs: no target of a run is a source of another one of it, and all sources
come in earlier runs. Where latents are sorted by layer, which the first pass sees, runs are ranges
of nodes and there are about as many as layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bathyscope.attribution.graphs.blocks import Block, row_blocks
from bathyscope.attribution.graphs.graph import Bools, Graph, Ints
from bathyscope.errors import GraphError, NonFiniteError


class Order(NamedTuple):
    """Runs of targets, sources first; the last run are the logits."""

    runs: tuple[Ints, ...]

    def upward(self) -> Iterator[Ints]:
        """Runs from the tokens to the logits."""
        return iter(self.runs)

    def downward(self) -> Iterator[Ints]:
        """Runs from the logits to the tokens."""
        return reversed(self.runs)

    @property
    def depth(self) -> int:
        """An upper bound on the edges of any path."""
        return len(self.runs)


def order_of(graph: Graph) -> Order:
    """Check every entry and find the order: one pass where latents are sorted, else one per level.

    Raises `NonFiniteError` for NaN or infinity and `GraphError` for an index that is no source,
    for sources of a row that do not ascend, and for a cycle; each names target and source.
    """
    last = np.full(graph.num_nodes, -1)
    for block in row_blocks(graph, targets(graph)):
        _check(graph, block)
        is_latent = block.indices < graph.num_latents
        # Sources ascend, so the latents of a row are its first entries.
        found = block.sums(is_latent.astype(np.int64))
        place = np.cumsum(block.lengths) - block.lengths + found - 1
        has_any = found > 0
        last[block.rows[has_any]] = block.indices[place[has_any]]
    if graph.dropped is not None:
        last = np.maximum(last, graph.dropped.last_latent)
    latents = np.arange(graph.num_latents)
    late = np.flatnonzero(last[: graph.num_latents] >= latents)
    logits = np.arange(graph.first_logit, graph.num_nodes)
    if not len(late):
        return Order((*_ranges(last[: graph.num_latents]), logits))
    if graph.dropped is not None:
        raise GraphError(
            f"{graph.name(late[0])} has latent {last[late[0]]} as a source. In a truncated graph "
            "latents must be sorted so that sources come before their targets, because the order "
            "cannot be found from some of the entries: sort the nodes by layer."
        )
    return Order((*_levels(graph), logits))


def targets(graph: Graph) -> Ints:
    """The nodes that can have sources: latents and logits."""
    logits = np.arange(graph.first_logit, graph.num_nodes)
    return np.concatenate([np.arange(graph.num_latents), logits])


def _check(graph: Graph, block: Block) -> None:
    if not np.isfinite(block.values).all():
        _refuse(graph, block, int(np.argmin(np.isfinite(block.values))), "is not finite")
    outside = (block.indices < 0) | (block.indices >= graph.first_logit)
    if outside.any():
        _refuse(graph, block, int(np.argmax(outside)), "has no source")
    falls = np.zeros(len(block.indices), dtype=bool)
    np.less_equal(block.indices[1:], block.indices[:-1], out=falls[1:])
    first = np.cumsum(block.lengths) - block.lengths
    falls[first[block.lengths > 0]] = False
    if falls.any():
        _refuse(graph, block, int(np.argmax(falls)), "comes after a later source, or twice")


def _refuse(graph: Graph, block: Block, entry: int, what: str) -> None:
    row = int(np.searchsorted(np.cumsum(block.lengths), entry, side="right"))
    target, source = int(block.rows[row]), int(block.indices[entry])
    value = block.values[entry]
    said = f"The edge to {graph.name(target)} from {graph.name(source)}, value {value}, {what}."
    if not np.isfinite(value):
        raise NonFiniteError(
            f"{said} Look for an overflow in the model's forward or gradients; float32 helps."
        )
    raise GraphError(
        f"{said} Sources are latents, errors and tokens; those of a row ascend, each once."
    )


def _ranges(last: Ints) -> Iterator[Ints]:
    """Cut sorted latents into the longest ranges that hold no edge; `last` is each one's source."""
    start = 0
    for node, source in enumerate(last.tolist()):
        if source >= start:
            yield np.arange(start, node)
            start = node
    if start < len(last):
        yield np.arange(start, len(last))


def _levels(graph: Graph) -> Iterator[Ints]:
    """Sets of latents whose sources are all in earlier sets."""
    placed = np.zeros(graph.num_nodes, dtype=bool)
    placed[graph.num_latents :] = True
    left = np.arange(graph.num_latents)
    while len(left):
        ready = [~b.any(~placed[b.indices]) for b in row_blocks(graph, left)]
        is_ready = np.concatenate(ready)
        if not is_ready.any():
            raise GraphError(
                f"The graph has a cycle through {_in_cycle(graph, placed, int(left[0]))}. Direct "
                "effects go from earlier to later layers only: check how rows were made."
            )
        yield left[is_ready]
        placed[left[is_ready]] = True
        left = left[~is_ready]


def _in_cycle(graph: Graph, placed: Bools, node: int) -> str:
    """The nodes of a cycle: from a node that has none of its sources placed, back and back."""
    path: dict[int, None] = {}
    while node not in path:
        path[node] = None
        sources = next(row_blocks(graph, np.array([node]))).indices
        node = int(sources[~placed[sources]][0])
    cycle = list(path)[list(path).index(node) :]
    named = ", ".join(graph.name(n) for n in cycle[:4])
    return f"{named} and {len(cycle) - 4} more" if len(cycle) > 4 else named
