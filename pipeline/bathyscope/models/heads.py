"""Attention heads: where they stand side by side, and how many there are.

A head is its block of columns of what the attention's output projection receives, which is what
the head read before it is mapped into the residual stream. With grouped-query attention these are
the query heads: several of them share keys and values, each has columns of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from bathyscope.errors import HookPointError
from bathyscope.models.families import FAMILIES, family_of
from bathyscope.models.hook_points import HookPoint, resolve


@dataclass(frozen=True)
class Heads:
    """The heads of a layer."""

    hook_point: HookPoint
    """Input of the output projection [batch, positions, heads * head width]."""
    count: int
    """Query heads."""


def heads_of(model_or_config: Any, layer: int) -> Heads:
    """The heads of a layer of a model, or of the model that a config describes.

    Raises HookPointError for a layer that is not there, and for a model whose heads are unknown:
    one of no family in the table, or one without attention.
    """
    is_model = isinstance(model_or_config, nn.Module)
    config: Any = getattr(model_or_config, "config", None) if is_model else model_or_config
    family = family_of(config)
    kind = getattr(config, "model_type", None)
    if family is None:
        raise HookPointError(
            f"The heads of model_type {kind!r} are not known: it is none of "
            f"{', '.join(sorted(FAMILIES))}. Change a whole module by its path instead."
        )
    # Refuses a layer that is not there, in the words of the aliases.
    resolve(model_or_config, f"resid_post.{layer}")
    if family.attention_projection is None:
        raise HookPointError(f"A model of type {kind!r} has no attention, so it has no heads.")
    name = f"{family.blocks}.{layer}.{family.attention_projection}:in"
    return Heads(resolve(model_or_config, name), int(config.num_attention_heads))
