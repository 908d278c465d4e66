"""What a graph needs of memory, before it is made."""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.attribution.graphs.forward import FrozenForward
from bathyscope.attribution.graphs.nodes import Nodes
from bathyscope.errors import GraphError

EDGE_BYTES = 8
"""int32 source and float32 value; as much again while the pieces are put together."""
_MOST_BATCH = 256


@dataclass(frozen=True)
class Budget:
    """Bytes that a graph of some nodes takes at most, and the batch of targets that fits."""

    edge_bytes: int
    """Edges if every source gave something to every later target."""
    batch_bytes: int
    """Gradients and rows of one target."""
    batch: int
    """Targets of one backward pass."""


def budget(forward: FrozenForward, nodes: Nodes, most_latents: int, memory_bytes: int) -> Budget:
    """The batch that a quarter of the memory holds, and whether the edges fit in the rest.

    Raises `GraphError` where they do not, with a number of latents that would, or where not even
    one target fits.
    """
    targets = min(len(nodes.latents), most_latents)
    others = nodes.num_errors + nodes.num_positions
    # A latent's sources come before it: half of the latents and half of the others, on average.
    edges = targets * (targets + others) // 2 + len(nodes.logits.token) * (targets + others)
    tensors = [forward.embedding, *forward.leaves.values()]
    gradient = 2 * sum(t.numel() * t.element_size() for t in tensors)
    one = gradient + 3 * 4 * (len(nodes.latents) + others)
    batch = min(_MOST_BATCH, memory_bytes // 4 // one)
    found = Budget(EDGE_BYTES * edges, one, batch)
    if batch < 1:
        raise GraphError(
            f"One target of this prompt of {nodes.num_positions} tokens needs {one / 1e9:.2f} GB "
            f"for its gradients, and the budget is {memory_bytes / 1e9:.2f} GB, a quarter of it "
            "for them. Raise attribute.memory_bytes, or give a shorter prompt."
        )
    return found


def check_edges(found: Budget, nodes: Nodes, most_latents: int, memory_bytes: int) -> None:
    """Raise `GraphError` where all edges may not fit, with a smaller number of latents."""
    if found.edge_bytes <= memory_bytes * 3 // 4:
        return
    room, others = memory_bytes * 3 // 4 // EDGE_BYTES, nodes.num_errors + nodes.num_positions
    logits = len(nodes.logits.token)
    # n (n + others) / 2 + logits (n + others) = room, and a little less.
    half = others / 2 + logits
    fits = int(0.95 * (max(half**2 + 2 * (room - logits * others), 0) ** 0.5 - half))
    targets = min(len(nodes.latents), most_latents)
    raise GraphError(
        f"A graph of {targets:,} latents and {others:,} other sources has up to "
        f"{found.edge_bytes / EDGE_BYTES:,.0f} edges, {found.edge_bytes / 1e9:.2f} GB, and the "
        f"budget is {memory_bytes / 1e9:.2f} GB. Set attribute.most_latents={max(fits, 1)}, or "
        "attribute.row_share=0.999 to keep only the largest entries of each row, name a local "
        "folder for the edges with attribute.spool, or raise attribute.memory_bytes."
    )
