"""Attention from the inside: queries, keys, values and heads' outputs, read and changed.

transformers hands every attention module's queries, keys and values to one function that it looks
up by name. Here that function is taken hold of while a `with` block lasts, so that one place serves
every family: queries and keys are those that meet in the softmax, after biases, norms and rotation.
A module that computes its attention by itself (GPT-J) is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bathyscope.errors import HookPointError
from bathyscope.models.families import family_of
from bathyscope.models.hook_points import layer_numbers

Part = Literal["queries", "keys", "values", "head_out"]
PARTS: tuple[Part, ...] = ("queries", "keys", "values", "head_out")


@dataclass(frozen=True)
class AttentionPart:
    """One tensor of a block's attention, [batch, positions, heads, d_head].

    Keys and values have one head for each group of query heads.
    """

    part: Part
    layer: int

    @property
    def name(self) -> str:
        """Such as `keys.3`."""
        return f"{self.part}.{self.layer}"


@dataclass(frozen=True)
class AttentionCall:
    """What one attention function was given and returned; tensors with their gradients."""

    queries: Tensor
    """[batch, positions, heads, d_head]."""
    keys: Tensor
    """[batch, positions, groups, d_head]."""
    values: Tensor
    """[batch, positions, groups, d_value]."""
    head_out: Tensor
    """[batch, positions, heads, d_value]."""
    mask: Tensor | None
    """As it was given: bool where it may look, or a number to add; None for none."""
    scaling: float
    softcap: float | None
    causal: bool
    """Whether a missing mask means that no position sees a later one."""


Change = Callable[[Tensor], Tensor]
"""Tensor of an attention part -> tensor of the same shape."""


@contextmanager
def attention_changed(
    model: nn.Module,
    changes: Mapping[AttentionPart, Change],
    calls: dict[int, AttentionCall] | None = None,
) -> Iterator[None]:
    """Every forward in the block goes on from what the changes make of attention's parts.

    With `calls`, the attention of each layer named in it or in `changes` is kept there after each
    forward. Raises HookPointError where a layer does not exist, and at the end of the block where a
    forward ran but a layer's attention was not seen: it does not use transformers' function.
    """
    wanted = {part.layer for part in changes} | set(calls or {})
    layers = _layers_of(model, wanted)
    name = getattr(model.config, "_attn_implementation", None) or "eager"
    before = ALL_ATTENTION_FUNCTIONS._local_mapping.get(name)
    seen: set[int] = set()

    def function(
        module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **kwargs: Any
    ) -> Any:
        original = before or _original(name, module)
        layer = layers.get(id(module))
        if layer is None:
            return original(module, q, k, v, mask, **kwargs)
        seen.add(layer)
        given: tuple[tuple[Part, Tensor], ...] = (("queries", q), ("keys", k), ("values", v))
        q, k, v = (_apply(changes, part, layer, t.transpose(1, 2)) for part, t in given)
        out, weights = original(
            module, *(t.transpose(1, 2).contiguous() for t in (q, k, v)), mask, **kwargs
        )
        out = _apply(changes, "head_out", layer, out)
        if calls is not None:
            calls[layer] = _call(module, q, k, v, out, mask, kwargs)
        return out, weights

    ALL_ATTENTION_FUNCTIONS[name] = function
    try:
        yield
    finally:
        if before is None:
            del ALL_ATTENTION_FUNCTIONS[name]
        else:
            ALL_ATTENTION_FUNCTIONS[name] = before
    if wanted and not seen:
        raise HookPointError(
            f"The attention of {type(model).__name__} was not seen: this family computes it "
            f"without transformers' attention functions, so queries, keys and values cannot be "
            f"read or changed. Use heads, or attn_out."
        )


def _layers_of(model: nn.Module, wanted: set[int]) -> dict[int, int]:
    """id of every module of the wanted blocks -> its layer."""
    if not wanted:
        return {}
    family = family_of(getattr(model, "config", None))
    held = layer_numbers(model)
    missing = sorted(wanted - set(held))
    if family is None or missing:
        raise HookPointError(
            f"The attention of layers {missing or sorted(wanted)} was asked for, but "
            f"{type(model).__name__} "
            + ("is of no family in the table." if family is None else f"holds layers {held}.")
        )
    blocks = {layer: model.get_submodule(f"{family.blocks}.{layer}") for layer in wanted}
    return {id(module): layer for layer, block in blocks.items() for module in block.modules()}


def _original(name: str, module: nn.Module) -> Callable[..., Any]:
    if name in ALL_ATTENTION_FUNCTIONS._global_mapping:
        function: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS._global_mapping[name]
        return function
    # "eager" is a function of each model's own file.
    default: Callable[..., Any] = vars(sys.modules[type(module).__module__])[
        "eager_attention_forward"
    ]
    return default


def _apply(
    changes: Mapping[AttentionPart, Change], part: Part, layer: int, tensor: Tensor
) -> Tensor:
    change = changes.get(AttentionPart(part, layer))
    if change is None:
        return tensor
    value = change(tensor)
    if value.shape != tensor.shape:
        raise HookPointError(
            f"The change of {part}.{layer} returned {list(value.shape)}; wanted a tensor of shape "
            f"{list(tensor.shape)}: batch, positions, heads, numbers of a head."
        )
    return value.to(tensor)


def _call(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, out: Tensor, mask: Any, kwargs: Any
) -> AttentionCall:
    scaling = kwargs.get("scaling")
    causal = kwargs.get("is_causal")
    return AttentionCall(
        queries=q, keys=k, values=v, head_out=out, mask=mask,
        scaling=float(q.shape[-1] ** -0.5 if scaling is None else scaling),
        softcap=kwargs.get("softcap"),
        causal=bool(getattr(module, "is_causal", True) if causal is None else causal),
    )  # fmt: skip
