"""Forwards that are read, changed and differentiated at places.

A `Graph` is one forward whose gradients can be asked for as often as wanted, also with the
gradient that flows through one layer's attention and MLP left out (GradDrop).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bathyscope.attribution.nodes.metrics import Metric, evaluated, require_finite
from bathyscope.attribution.nodes.places import Change, Place, changed
from bathyscope.errors import ConfigError, ModelError
from bathyscope.models.attention import AttentionCall
from bathyscope.models.capture import Inputs, find_module, first_argument, run_forward
from bathyscope.models.hook_points import HookPoint


@dataclass(frozen=True)
class Trace:
    """What one forward gave, without gradients."""

    tensors: dict[Place, Tensor]
    logits: Tensor
    calls: dict[int, AttentionCall]


@torch.no_grad()
def traced(
    model: nn.Module,
    inputs: Inputs,
    places: Iterable[Place] = (),
    *,
    changes: Mapping[Place, Change] | None = None,
    calls_of: Iterable[int] = (),
) -> Trace:
    """One forward: the tensors at places (before any change there), and the logits."""
    seen: dict[Place, Tensor] = {}
    wanted = dict.fromkeys(places)
    given = changes or {}

    def watch(place: Place) -> Change:
        def see(x: Tensor) -> Tensor:
            if place in wanted:
                seen[place] = x.detach().clone()
            return given[place](x) if place in given else x

        return see

    calls: dict[int, Any] = dict.fromkeys(calls_of)
    with changed(model, {p: watch(p) for p in {**wanted, **given}}, calls):
        logits = logits_of(run_forward(model, inputs))
    return Trace(seen, logits, calls)


@dataclass
class Graph:
    """One forward with its graph."""

    tensors: dict[Place, Tensor]
    """Place -> tensor there."""
    onwards: dict[Place, Tensor]
    """Place -> its copy that later modules use: what is done to gradients is done to this one's."""
    metric: Tensor
    """[groups, pairs]."""
    calls: dict[int, AttentionCall]
    _dropped: list[int | None]

    def gradients(self, places: Sequence[Place], *, drop: int | None = None) -> dict[Place, Tensor]:
        """∂(sum of the metric) / ∂(tensor) at places; 0 where the metric does not depend on it.

        With `drop`, as if what attention and MLP of that layer add to the stream were constant.
        """
        self._dropped[0] = drop
        tensors = [self.tensors[place] for place in places]
        found = torch.autograd.grad(
            self.metric.sum(), tensors, retain_graph=True, allow_unused=True
        )
        self._dropped[0] = None
        return {
            place: torch.zeros_like(tensor) if gradient is None else gradient
            for place, tensor, gradient in zip(places, tensors, found, strict=True)
        }


def graph_of(
    model: nn.Module,
    inputs: Inputs,
    places: Sequence[Place],
    metric: Metric,
    *,
    pairs: int,
    changes: Mapping[Place, Change] | None = None,
    calls_of: Iterable[int] = (),
    drops: Mapping[int, Sequence[Place]] | None = None,
    observed: Sequence[HookPoint] = (),
    on_gradient: Mapping[Place, Change] | None = None,
) -> Graph:
    """One forward that keeps its graph from places on.

    `changes` are applied first at a place. `drops` says, for each layer, what it adds to the
    stream. Inputs of modules that are `observed` are in the graph as they are, not replaced.
    `on_gradient` changes the gradient that comes back to a place before it goes on from there.
    Raises ModelError where weights are offloaded.
    """
    require_resident(model)
    given, returning = changes or {}, on_gradient or {}
    seen: dict[Place, Tensor] = {}
    onwards: dict[Place, Tensor] = {}
    dropped: list[int | None] = [None]
    layer_of = {p: layer for layer, ps in (drops or {}).items() for p in ps}

    def watch(place: Place) -> Change:
        def see(x: Tensor) -> Tensor:
            value = given[place](x) if place in given else x
            # A tensor of its own: others may read the one that this module is given.
            value = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
            seen[place] = value
            onwards[place] = out = value.clone()
            if place in layer_of:
                layer = layer_of[place]
                out.register_hook(lambda g: torch.zeros_like(g) if dropped[0] == layer else g)
            if place in returning:
                out.register_hook(returning[place])
            return out

        return see

    watched = dict.fromkeys([*given, *places, *layer_of])
    calls: dict[int, Any] = dict.fromkeys(calls_of)
    with ExitStack() as stack:
        stack.enter_context(weights_without_gradients(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(observing(model, observed, seen))
        stack.enter_context(changed(model, {p: watch(p) for p in watched}, calls))
        value = evaluated(metric, logits_of(run_forward(model, inputs)), pairs)
    if not value.requires_grad:
        raise ConfigError(
            f"The metric does not depend on {', '.join(p.name for p in watched)}. Does it detach "
            "what it is given, or read positions before the nodes?"
        )
    return Graph(seen, onwards, require_finite("The metric", value), calls, dropped)


@contextmanager
def observing(
    model: nn.Module, points: Sequence[HookPoint], seen: dict[Place, Tensor]
) -> Iterator[None]:
    """What modules receive at points of the side `in` is put into `seen`, with its graph."""

    def watch(point: HookPoint) -> Any:
        def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[point] = first_argument(point, args, kwargs)[1]

        return see

    assert all(point.side == "in" for point in points)
    handles = [
        find_module(model, p).register_forward_pre_hook(watch(p), with_kwargs=True) for p in points
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def weights_without_gradients(model: nn.Module) -> Iterator[None]:
    """Weights ask for no gradients in the block, so that the graph holds activations only."""
    asked = [p for p in model.parameters() if p.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def logits_of(output: Any) -> Tensor:
    """The logits of what a model returned: its field of that name, or the tensor itself."""
    value = getattr(output, "logits", output)
    if isinstance(value, tuple | list):
        value = value[0]
    if not isinstance(value, Tensor):
        raise ConfigError(
            f"The model returned {type(output).__name__} without logits; wanted a tensor, or an "
            "output with the field `logits`. Load the model with its head."
        )
    return value


def require_resident(model: nn.Module) -> None:
    """Raise ModelError where weights are offloaded: they are gone when gradients go back."""
    away = [name for name, p in model.named_parameters() if p.is_meta]
    if away:
        raise ModelError(
            f"{len(away)} weights are offloaded (such as {away[0]}) and are dropped after each "
            f"module has run, so gradients cannot flow back through them. Load the model onto "
            f"devices only, or use exact patching, which needs no gradients."
        )


def require_resident_map(device_map: Mapping[str, Any]) -> None:
    """The same for a device map, before anything is loaded."""
    devices = {str(device) for device in device_map.values()}
    away = sorted(({"disk"} & devices) | ({"cpu"} & devices if len(devices) > 1 else set()))
    if away:
        names = [n or "*" for n, device in device_map.items() if str(device) in away]
        raise ModelError(
            f"The device map keeps {', '.join(names[:3])} on {', '.join(away)}: offloaded weights "
            f"are dropped after each module has run, so gradients cannot flow back through them. "
            f"Use more devices, a smaller dtype or a smaller model, or exact patching, which needs "
            f"no gradients."
        )


def require_context(model: nn.Module, positions: int) -> None:
    """Raise ConfigError where prompts are longer than the model's context."""
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if limit is not None and positions > int(limit):
        raise ConfigError(
            f"The longest prompt has {positions} tokens and this model reads {limit}. Shorten it."
        )
