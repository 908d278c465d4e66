"""Splice: put another tensor in a hook point's place while a model runs.

Flows in: a model, a hook point and a function of its tensor. Inside the `with` block every forward
continues from what the function returns. `restart` continues a forward from stored activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bathyscope.errors import HookPointError
from bathyscope.models.capture import find_module, first_argument, first_output
from bathyscope.models.hook_points import HookPoint, layer_numbers, resolve

Replace = Callable[[Tensor], Tensor]
"""Tensor [batch, positions, d] -> tensor of the same shape."""


@contextmanager
def spliced(model: nn.Module, hook_point: HookPoint | str, replace: Replace) -> Iterator[nn.Module]:
    """Every forward in the block goes on from `replace(tensor)` at the hook point.

    The replacement is cast to the tensor's dtype and device; a tuple keeps its other elements.
    Gradients flow through `replace`. Several splices nest. Raises HookPointError for a replacement
    of another shape, and for `resid_mid`, where a hook would change only what the norm reads.
    """
    point = resolve(model, hook_point) if isinstance(hook_point, str) else hook_point
    if point.reads_residual_aside:
        raise HookPointError(
            f"{point.name} can be captured but not spliced: the residual stream passes beside the "
            f"norm that is hooked, so only the MLP would see the replacement. "
            f"Splice 'attn_out.{point.layer}' or 'resid_post.{point.layer}'."
        )
    module = find_module(model, point)
    if point.side == "in":
        handle = module.register_forward_pre_hook(_input_hook(point, replace), with_kwargs=True)
    else:
        handle = module.register_forward_hook(_output_hook(point, replace))
    try:
        yield model
    finally:
        handle.remove()


def restart(
    model_tail: nn.Module, hidden: Tensor, *, attention_mask: Tensor | None = None
) -> Tensor:
    """Logits [batch, positions, vocabulary] of a forward that starts at stored activations.

    `hidden` [batch, positions, d] takes the place of the first kept block's input, that is
    `resid_pre` of that block. It is put there by a hook and not given as embeddings alone, because
    families add positions (GPT-2) or scale (Gemma) between embedding and block.
    Raises HookPointError for a model of no family.
    """
    layers = layer_numbers(model_tail)
    if not layers:
        raise HookPointError(
            f"{type(model_tail).__name__} is of no family in the table, so its first block is "
            f"unknown and a forward cannot restart there."
        )
    point = resolve(model_tail, f"resid_pre.{layers[0]}")
    dtype = next(find_module(model_tail, point).parameters()).dtype
    start = hidden.to(dtype)
    with spliced(model_tail, point, lambda _: start):
        output = model_tail(inputs_embeds=start, attention_mask=attention_mask, use_cache=False)
    logits: Tensor = output.logits
    return logits


def _replacement(point: HookPoint, tensor: Tensor, replace: Replace) -> Tensor:
    value = replace(tensor)
    if not isinstance(value, torch.Tensor) or value.shape != tensor.shape:
        got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise HookPointError(
            f"The splice at {point.name} returned {got}; wanted a tensor of shape "
            f"{list(tensor.shape)}."
        )
    return value.to(tensor)


def _input_hook(point: HookPoint, replace: Replace) -> Callable[..., Any]:
    def before(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        where, tensor = first_argument(point, args, kwargs)
        value = _replacement(point, tensor, replace)
        if isinstance(where, int):
            return (value, *args[1:]), kwargs
        return args, {**kwargs, where: value}

    return before


def _output_hook(point: HookPoint, replace: Replace) -> Callable[..., Any]:
    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        value = _replacement(point, first_output(point, output), replace)
        if hasattr(output, "_fields"):
            return output._replace(**{output._fields[0]: value})
        if isinstance(output, tuple | list):
            return type(output)([value, *output[1:]])
        return value

    return after
