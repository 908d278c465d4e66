"""Shapes that are known before any weight is read.

Flows in: a model folder and hook point names. Flows out: resolved hook points and the width of
their activations, from a model whose tensors have shapes but no data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from torch import nn

from bathyscope.errors import HookPointError
from bathyscope.models.build import build_model
from bathyscope.models.capture import capture
from bathyscope.models.families import ALIAS_KINDS
from bathyscope.models.hook_points import HookPoint, resolve
from bathyscope.models.load import read_config


class ModelShape(NamedTuple):
    """What a plan needs to know of a model."""

    hooks: list[HookPoint]
    widths: list[int]
    """d of each hook point."""
    num_layers: int
    num_parameters: int
    """Of the whole model, tied weights counted once."""
    context_length: int | None
    """Longest sequence that the model was made for, where its config says so."""
    vocabulary: int


def model_shape(folder: str | Path, hook_points: Sequence[str]) -> ModelShape:
    """Resolve hook points and find their widths without reading a weight.

    Raises `HookPointError`, with near matches, for a name that fits nothing, and for a hook
    point whose tensor is not [batch, positions, d].
    """
    config = read_config(folder)
    with init_empty_weights(include_buffers=True):
        model: Any = build_model(config, dtype=torch.float32, attention="eager")
    model.tie_weights()
    hooks = [resolve(model, name) for name in hook_points]
    return ModelShape(
        hooks=hooks,
        widths=_widths(model, hooks, hidden_size=int(config.hidden_size)),
        num_layers=int(config.num_hidden_layers),
        num_parameters=sum(p.numel() for p in model.parameters()),
        context_length=getattr(config, "max_position_embeddings", None),
        vocabulary=int(config.vocab_size),
    )


def _widths(model: nn.Module, hooks: Sequence[HookPoint], *, hidden_size: int) -> list[int]:
    # Every alias stands on or beside the residual stream.
    if all(hook.name.partition(".")[0] in ALIAS_KINDS for hook in hooks):
        return [hidden_size] * len(hooks)
    tokens = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    # A finished mask keeps models from looking at values that an empty tensor does not have.
    mask = torch.zeros(2, 1, 3, 3, device="meta")
    inputs = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
    seen = capture(model.eval(), hooks, inputs)
    for name, tensor in seen.items():
        if tensor.ndim != 3 or tensor.shape[:2] != (2, 3):
            raise HookPointError(
                f"{name} gives {list(tensor.shape)} for a batch of [2, 3] tokens. "
                "Wanted [batch, positions, d]: hook a module that works on every position."
            )
    return [int(seen[hook.name].shape[-1]) for hook in hooks]
