"""What a model takes, block by block, from its config alone: no weight is read, none is made.

Flows in: a Hugging Face config and the hook points' last block. Flows out: parameters, bytes and
operations of what a harvest loads and runs, and how many devices of a size that needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from bathyscope.errors import ModelError
from bathyscope.models.build import build_model
from bathyscope.models.families import Family, family_of


@dataclass(frozen=True)
class Footprint:
    """Parameters of the parts of a model that a harvest up to some block needs."""

    total: int
    """Of the whole model, tied weights once."""
    before_blocks: int
    """Embeddings, and whatever else is not in a block, its head or its final norm."""
    blocks: tuple[int, ...]
    """Of each block that is needed."""
    active_blocks: tuple[int, ...]
    """Of each block, those that one token goes through: a few experts of all."""
    attention_width: int
    """Width of all attention heads together; 0 without attention."""

    @property
    def needed(self) -> int:
        """Parameters that are loaded."""
        return self.before_blocks + sum(self.blocks)

    @property
    def sizes(self) -> list[int]:
        """Of the blocks, the first one with what stands before it: what parts of a model hold."""
        return [self.before_blocks + self.blocks[0], *self.blocks[1:]]

    def flops_per_token(self, positions: int) -> float:
        """Operations of a forward per token: 2 per active weight, and those of attention.

        Scores and their use cost 2 · 2 · positions · width per block, half of it under a causal
        mask that kernels do not make use of, so it is counted whole. Embeddings are looked up.
        """
        attention = 4.0 * positions * self.attention_width * len(self.blocks)
        return 2.0 * sum(self.active_blocks) + attention


def empty_model(config: Any) -> nn.Module:
    """The whole model of a config without data, tied weights tied.

    Raises what `build_model` raises.
    """
    with init_empty_weights(include_buffers=True):
        model: Any = build_model(config, dtype=torch.bfloat16, attention="eager")
    model.tie_weights()
    found: nn.Module = model
    return found


def footprint(config: Any, blocks: int | None = None) -> Footprint:
    """The footprint of a model whose first `blocks` blocks are needed; of all when it is None.

    Raises ModelError for a model of no family, whose blocks are unknown, and for more blocks than
    there are.
    """
    family = family_of(config)
    if family is None:
        raise ModelError(
            f"The size of a model of type {getattr(config, 'model_type', None)!r} cannot be "
            "planned: it is in no family, so its blocks are unknown."
        )
    model = empty_model(config)
    listed = list(model.get_submodule(family.blocks).children())
    wanted = len(listed) if blocks is None else blocks
    if not 0 < wanted <= len(listed):
        raise ModelError(
            f"{wanted} blocks are asked for, but the model has {len(listed)}. Choose hook points "
            f"in blocks 0 to {len(listed) - 1}."
        )
    whole = _count(model)
    head = _count_of(model, (family.final_norm, family.unembedding), but=family.embedding)
    return Footprint(
        total=whole,
        before_blocks=whole - sum(_count(block) for block in listed) - head,
        blocks=tuple(_count(block) for block in listed[:wanted]),
        active_blocks=tuple(_count(b) - _idle(b, config) for b in listed[:wanted]),
        attention_width=_attention_width(config, family),
    )


def split(sizes: Sequence[float], first: float, room: float) -> list[int] | None:
    """Blocks of each device when devices of some room are filled in order; None if one is too big.

    `sizes` are bytes of the blocks, `first` what stands before them on the first device.
    """
    counts, left = [0], room - first
    if left < 0:
        return None
    for size in sizes:
        if size > room:
            return None
        if size > left:
            counts.append(0)
            left = room
        counts[-1] += 1
        left -= size
    return counts


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _count_of(model: nn.Module, paths: Sequence[str | None], *, but: str) -> int:
    """Parameters of these modules that the embedding does not share."""
    kept = {id(p) for p in model.get_submodule(but).parameters()}
    modules = [model.get_submodule(path) for path in paths if path is not None]
    found = {id(p): p.numel() for m in modules for p in m.parameters() if id(p) not in kept}
    return sum(found.values())


def _idle(block: nn.Module, config: Any) -> int:
    """Parameters of the experts that a token does not go through."""
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if not experts:
        return 0
    chosen = int(config.num_experts_per_tok)
    fused = sum(
        p.numel() for n, p in block.named_parameters() if ".experts." in f".{n}" and p.ndim == 3
    )
    return fused * (int(experts) - chosen) // int(experts)


def _attention_width(config: Any, family: Family) -> int:
    if family.mixer:
        return 0
    heads = int(config.num_attention_heads)
    of_head = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    return heads * int(of_head)
