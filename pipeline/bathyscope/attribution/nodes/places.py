"""Places: the tensors of a forward where nodes live, by name.

A place is a hook point (`models/hook_points.py`), `heads.L` (what attention's output projection
receives: all heads side by side), or a part of attention: `queries.L`, `keys.L`, `values.L`,
`head_out.L`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from torch import Tensor, nn

from bathyscope.errors import HookPointError
from bathyscope.models.attention import PARTS, AttentionCall, AttentionPart, attention_changed
from bathyscope.models.families import family_of
from bathyscope.models.heads import heads_of
from bathyscope.models.hook_points import HookPoint, layer_numbers, resolve
from bathyscope.models.splice import spliced

Place = HookPoint | AttentionPart
Change = Callable[[Tensor], Tensor]
"""Tensor at a place -> what takes its place."""


def place_of(model: nn.Module, name: str) -> Place:
    """The place of that name. Raises HookPointError where this model has none."""
    kind, _, layer = name.partition(".")
    if not layer.isdecimal():
        return resolve(model, name)
    for part in PARTS:
        if part == kind:
            _check_layer(model, name, int(layer))
            return AttentionPart(part, int(layer))
    return _heads(model, name, int(layer)) if kind == "heads" else resolve(model, name)


def in_stream(model: nn.Module, place: Place) -> bool:
    """Whether the tensor is the residual stream, and not what one layer computes."""
    family = family_of(getattr(model, "config", None))
    if isinstance(place, AttentionPart) or place.layer is None or family is None:
        return False
    block = f"{family.blocks}.{place.layer}"
    reads_middle = place.path == f"{block}.{family.mlp_norm}" and place.side == "in"
    return place.path == block or reads_middle


@contextmanager
def changed(
    model: nn.Module,
    changes: Mapping[Place, Change],
    calls: dict[int, AttentionCall] | None = None,
) -> Iterator[None]:
    """Every forward in the block goes on from what the changes make of the tensors at places.

    With `calls` the attention of the layers named in it is kept there. Raises HookPointError as
    `spliced` and `attention_changed` do.
    """
    parts = {p: change for p, change in changes.items() if isinstance(p, AttentionPart)}
    with ExitStack() as stack:
        for place, change in changes.items():
            if isinstance(place, HookPoint):
                stack.enter_context(spliced(model, place, change))
        if parts or calls:
            stack.enter_context(attention_changed(model, parts, calls))
        yield


def _heads(model: nn.Module, name: str, layer: int) -> HookPoint:
    return replace(heads_of(model, layer).hook_point, name=name)


def _check_layer(model: nn.Module, name: str, layer: int) -> None:
    held = layer_numbers(model)
    if layer not in held:
        has = f"layers {held[0]} to {held[-1]}" if held else "no layers that a family names"
        raise HookPointError(f"{name!r} asks for layer {layer}; this model has {has}.")
