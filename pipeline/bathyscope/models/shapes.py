"""Shapes that are known before any weight is read.

Flows in: a model folder and hook point names. Flows out: resolved hook points, and how many rows of
which width they give, from a model whose tensors have shapes but no data.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from bathyscope.errors import BathyscopeError, HookPointError
from bathyscope.models.build import build_model
from bathyscope.models.capture import Inputs, capture
from bathyscope.models.families import ALIAS_KINDS
from bathyscope.models.hook_points import HookPoint, resolve
from bathyscope.models.load import read_config
from bathyscope.models.row_rules import RowShape, row_shape

_ITEMS, _TOKENS = 2, 3


class ModelShape(NamedTuple):
    """What a plan needs to know of a model."""

    hooks: list[HookPoint]
    widths: list[int]
    """d of each hook point."""
    positions: list[int | None]
    """P of each hook point; None where it is that of the corpus: a row for every token."""
    num_layers: int
    num_parameters: int
    """Of the whole model, tied weights counted once."""
    context_length: int | None
    """Longest sequence that the model was made for, where its config says so."""
    vocabulary: int


def model_shape(
    described: str | Path | Any,
    hook_points: Sequence[str],
    *,
    image_size: int | None = None,
    channels_last: Collection[str] = (),
) -> ModelShape:
    """Resolve hook points and find the shapes of their rows without reading a weight.

    `described` is a model folder, a Hugging Face config, or a module without data. With an
    `image_size` the model is shown images, else tokens. Raises `HookPointError`, with near matches,
    for a name that fits nothing, and for tensors that the row rules do not know.
    """
    model: Any = described
    if not isinstance(described, nn.Module):
        config = read_config(described) if isinstance(described, str | Path) else described
        with init_empty_weights(include_buffers=True):
            # Grouped products of experts have shapes without data in bfloat16 only.
            model = build_model(config, dtype=torch.bfloat16, attention="eager")
        model.tie_weights()
    config = getattr(model, "config", None)
    hooks = [resolve(model, name) for name in hook_points]
    rows = _row_shapes(model, hooks, image_size, channels_last)
    return ModelShape(
        hooks=hooks,
        widths=[row.width for row in rows],
        positions=[None if image_size is None and r.positions != 1 else r.positions for r in rows],
        num_layers=int(getattr(config, "num_hidden_layers", 0)),
        num_parameters=sum(p.numel() for p in model.parameters()),
        context_length=getattr(config, "max_position_embeddings", None),
        vocabulary=int(getattr(config, "vocab_size", 0)),
    )


def _row_shapes(
    model: nn.Module,
    hooks: Sequence[HookPoint],
    image_size: int | None,
    channels_last: Collection[str],
) -> list[RowShape]:
    # Every alias of a language model stands on or beside the residual stream.
    if image_size is None and all(h.name.partition(".")[0] in ALIAS_KINDS for h in hooks):
        config: Any = model.config
        return [RowShape(_TOKENS, int(config.hidden_size))] * len(hooks)
    seen = _forward_without_data(model.eval(), hooks, image_size)
    rows = [
        row_shape(h.name, seen[h.name], _ITEMS, channels_last=h.name in channels_last)
        for h in hooks
    ]
    for hook, row in zip(hooks, rows, strict=True):
        if image_size is None and row.positions not in (1, _TOKENS):
            raise HookPointError(
                f"{hook.name} gives {list(seen[hook.name].shape)} for a batch of "
                f"[{_ITEMS}, {_TOKENS}] tokens. Wanted [batch, positions, d] or [batch, d]: hook a "
                "module that works on every position, or on whole sequences."
            )
    return rows


def _forward_without_data(
    model: nn.Module, hooks: Sequence[HookPoint], image_size: int | None
) -> dict[str, Tensor]:
    """Tensors at the hook points for a batch of two: shapes alone. Raises HookPointError."""
    failures = []
    for inputs in _empty_inputs(model, image_size):
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


def _empty_inputs(model: nn.Module, image_size: int | None) -> list[Inputs]:
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    if image_size is not None:
        pixels = torch.zeros(_ITEMS, 3, image_size, image_size, dtype=dtype, device="meta")
        return [pixels if takes_images_by_place(model) else {"pixel_values": pixels}]
    tokens = torch.zeros(_ITEMS, _TOKENS, dtype=torch.int64, device="meta")
    # A finished mask keeps models from looking at values that an empty tensor does not have; some
    # models take none of this shape.
    masks = (
        torch.zeros(_ITEMS, 1, _TOKENS, _TOKENS, dtype=dtype, device="meta"),
        torch.ones(_ITEMS, _TOKENS, dtype=dtype, device="meta"),
    )
    return [{"input_ids": tokens, "attention_mask": m, "use_cache": False} for m in masks]


def takes_images_by_place(model: nn.Module) -> bool:
    """Whether pixels are the first argument of a model, and not `pixel_values`."""
    return not hasattr(model, "config")
