"""How a model lies on GPUs, from shapes alone: what each GPU holds, and how much work it has.

Two kinds of replica. `accelerate` is one process whose device map spreads blocks over the GPUs of
one node; the map is the very one that loading chooses. `pipeline` is one process per GPU, on one or
several nodes, each with near equal blocks. Nothing here needs a GPU or reads a weight.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from bathyscope.errors import ModelError
from bathyscope.models.build import build_model
from bathyscope.models.cut import cut_model
from bathyscope.models.families import family_of
from bathyscope.models.footprint import Footprint
from bathyscope.models.pipeline import stage_blocks
from bathyscope.models.placement import choose_device_map, device_of

ACCELERATE, PIPELINE = "accelerate", "pipeline"


@dataclass(frozen=True)
class Gpus:
    """The GPUs that a plan counts with."""

    nodes: int
    per_node: int
    num_bytes: float
    """Memory of one."""
    reserved_bytes: float
    """Of it, kept for CUDA, workspaces of kernels and fragments."""

    @property
    def total(self) -> int:
        """GPUs of all nodes."""
        return self.nodes * self.per_node

    def groups(self, size: int, kind: str) -> int:
        """How many replicas of so many GPUs there is room for at once.

        One of accelerate stays on a node. Stages of a pipeline may lie on several nodes; one that
        fits on a node is not spread.
        """
        if size <= self.per_node:
            return self.nodes * (self.per_node // size)
        return 0 if kind == ACCELERATE else self.total // size


@dataclass(frozen=True)
class ReplicaShape:
    """One replica: blocks and bytes of weights of each of its GPUs, in order."""

    kind: str
    blocks: tuple[int, ...]
    weight_bytes: tuple[int, ...]
    working_bytes: int
    """Of each GPU besides: hidden states, the MLP's inner activations, captured rows."""

    @property
    def gpus(self) -> int:
        """GPUs that it takes."""
        return len(self.blocks)

    @property
    def largest_bytes(self) -> int:
        """What the fullest GPU holds."""
        return max(self.weight_bytes) + self.working_bytes

    @property
    def balance(self) -> float:
        """Work of the mean GPU over that of the busiest: with batches in flight it sets the pace.

        Work is counted in blocks, which are alike.
        """
        return sum(self.blocks) / (len(self.blocks) * max(self.blocks))


def shape_of_replica(
    kind: str,
    config: Any,
    needs: Footprint,
    *,
    gpus: int,
    room: float,
    working_bytes: int,
    dtype: torch.dtype = torch.bfloat16,
) -> ReplicaShape | None:
    """A replica of a kind on so many GPUs with `room` bytes each for weights; None if it is none.

    `needs` are the blocks that are loaded, in `dtype`.
    """
    if kind == PIPELINE:
        shape = _pipeline(needs, gpus, working_bytes, dtype)
    else:
        shape = _accelerate(config, needs, gpus, room, working_bytes, dtype)
    return shape if shape is not None and max(shape.weight_bytes) <= room else None


def smallest_replica(
    kind: str,
    config: Any,
    needs: Footprint,
    gpus: Gpus,
    working_bytes: int,
    dtype: torch.dtype = torch.bfloat16,
) -> ReplicaShape | None:
    """The replica on the fewest GPUs that uses as many of all GPUs as any of up to twice its size.

    So that no GPU of a node is left over where a slightly larger replica would use it. None when
    there is none.
    """
    room = gpus.num_bytes - gpus.reserved_bytes - working_bytes
    most = gpus.per_node if kind == ACCELERATE else min(gpus.total, len(needs.blocks))
    weights = dtype.itemsize * needs.needed
    least = max(1, -(-weights // int(room))) if room > 0 else most + 1
    found: list[ReplicaShape] = []
    for size in range(least, most + 1):
        if found and size > 2 * found[0].gpus:
            break
        shape = shape_of_replica(
            kind, config, needs, gpus=size, room=room, working_bytes=working_bytes, dtype=dtype
        )
        if shape is not None and gpus.groups(size, kind):
            found.append(shape)
    # The first of equals has the fewest GPUs.
    return max(found, key=lambda s: s.balance * s.gpus * gpus.groups(s.gpus, kind), default=None)


def working_bytes(
    config: Any, *, tokens: int, hook_points: int, dtype: torch.dtype = torch.bfloat16
) -> int:
    """Bytes beside the weights for batches of so many tokens: an upper estimate.

    The stream, its norm, queries, keys, values and what attention returns are about six times
    [tokens, d]; gate, up and their product three times [tokens, inner], of every expert that a
    token goes to. Rows of four batches wait for their copies to the host.
    """
    width = int(config.hidden_size)
    inner = next(
        (
            int(value)
            for name in ("intermediate_size", "n_inner", "ffn_dim")
            if (value := getattr(config, name, None))
        ),
        4 * width,
    )
    experts = getattr(config, "num_experts_per_tok", None) or 1
    if experts > 1:
        inner = int(getattr(config, "moe_intermediate_size", None) or inner) * int(experts)
    return dtype.itemsize * tokens * (6 * width + 3 * inner + 4 * hook_points * width)


def _pipeline(
    needs: Footprint, stages: int, working: int, dtype: torch.dtype
) -> ReplicaShape | None:
    sizes = needs.sizes
    if stages > len(sizes):
        return None
    cuts = stage_blocks(sizes, stages)
    return ReplicaShape(
        PIPELINE,
        tuple(last - first for first, last in cuts),
        tuple(dtype.itemsize * sum(sizes[first:last]) for first, last in cuts),
        working,
    )


def _accelerate(
    config: Any, needs: Footprint, gpus: int, room: float, working: int, dtype: torch.dtype
) -> ReplicaShape | None:
    with init_empty_weights(include_buffers=False):
        model: Any = build_model(config, dtype=dtype, attention="eager")
    model.tie_weights()
    cut_model(model, (0, len(needs.blocks)), head=False)
    try:
        with _without_warnings():
            placed = choose_device_map(
                model, "balanced", max_memory=dict.fromkeys(range(gpus), int(room))
            )
    except ModelError:
        return None
    blocks, weights = [0] * gpus, [0] * gpus
    for name, parameter in model.named_parameters():
        weights[int(device_of(name, placed))] += parameter.numel() * parameter.element_size()
    for name in _block_names(model, config):
        blocks[int(device_of(name, placed))] += 1
    return ReplicaShape(ACCELERATE, tuple(blocks), tuple(weights), working)


def _block_names(model: nn.Module, config: Any) -> list[str]:
    """A parameter of each block: where it lies, the block lies."""
    family = family_of(config)
    assert family is not None, "the footprint knows its blocks"
    return [
        f"{family.blocks}.{name}.{next(iter(dict(block.named_parameters())))}"
        for name, block in model.get_submodule(family.blocks).named_children()
    ]


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Quiet while a device map is made for GPUs that this machine does not have."""
    loud = logging.getLogger("accelerate.utils.modeling")
    level = loud.level
    loud.setLevel(logging.ERROR)
    try:
        yield
    finally:
        loud.setLevel(level)
