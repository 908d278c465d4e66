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
from torch import Tensor, nn

from bathyscope.errors import BathyscopeError, HookPointError
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


def model_shape(described: str | Path | Any, hook_points: Sequence[str]) -> ModelShape:
    """Resolve hook points and find their widths without reading a weight.

    `described` is a model folder, or a Hugging Face config.

    Raises `HookPointError`, with near matches, for a name that fits nothing, and for a hook
    point whose tensor is not [batch, positions, d].
    """
    config = read_config(described) if isinstance(described, str | Path) else described
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
    seen = _forward_without_data(model.eval(), hooks)
    for name, tensor in seen.items():
        if tensor.ndim != 3 or tensor.shape[:2] != (2, 3):
            raise HookPointError(
                f"{name} gives {list(tensor.shape)} for a batch of [2, 3] tokens. "
                "Wanted [batch, positions, d]: hook a module that works on every position."
            )
    return [int(seen[hook.name].shape[-1]) for hook in hooks]


def _forward_without_data(model: nn.Module, hooks: Sequence[HookPoint]) -> dict[str, Tensor]:
    """Tensors at the hook points for [2, 3] tokens: shapes alone. Raises HookPointError."""
    tokens = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    # A finished mask keeps models from looking at values that an empty tensor does not have; some
    # models take none of this shape.
    masks = torch.zeros(2, 1, 3, 3, device="meta"), torch.ones(2, 3, device="meta")
    failures = []
    for mask in masks:
        inputs = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
        try:
            return capture(model, hooks, inputs)
        except BathyscopeError:
            raise
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
    raise HookPointError(
        f"The widths of {', '.join(hook.name for hook in hooks)} cannot be found without weights: "
        f"{' / '.join(failures)}. Take hook points by alias, whose widths are known."
    )
