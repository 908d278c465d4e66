"""One forward of a prompt in which everything that is written to the residual stream is a source.

The embedding, and what each MLP (or other module with a dictionary) writes, are leaves of the
gradient's graph; between them the model is frozen (`models.frozen`) and so affine:

    what a part reads = Σ over earlier leaves (linear map of the leaf) + Σ over biases

A skip connection is part of the linear map, not of the leaf. The forward has a batch of one:
gradients of many targets at once come from batching the backward pass alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bathyscope.attribution.graphs.replacement import Part, Replacement, check_widths
from bathyscope.errors import ConfigError, ModelError, NonFiniteError
from bathyscope.models.capture import find_module, first_argument, first_output
from bathyscope.models.families import family_of
from bathyscope.models.frozen import frozen
from bathyscope.models.hook_points import HookPoint, layer_numbers, resolve
from bathyscope.models.splice import spliced

EMBEDDING = "embedding"


@dataclass
class FrozenForward:
    """The tensors of one prompt of P positions; those with a graph carry a batch of 1."""

    tokens: Tensor
    """int64 [P]."""
    keep: Tensor
    """bool [P]: the positions at which dictionaries stand for the model."""
    embedding: Tensor
    """Leaf [1, P, d]: what goes into the first block."""
    leaves: dict[str, Tensor] = field(default_factory=dict)
    """Hook point to write -> leaf [1, P, d_out]: what is written, without the skip."""
    written: dict[str, Tensor] = field(default_factory=dict)
    """Hook point to write -> [P, d_out], the model's own output there, without a graph."""
    read: dict[str, Tensor] = field(default_factory=dict)
    """Hook point to read -> [1, P, d_in], with a graph."""
    order: list[str] = field(default_factory=list)
    """Hook points as the forward came by, reads before writes of one module."""
    final: Tensor | None = None
    """What the unembedding receives [1, P, d], with a graph."""
    logits: Tensor | None = None
    """[P, vocabulary], without a graph."""
    biases: dict[str, Tensor] = field(default_factory=dict)
    """Path of a parameter -> the parameter: biases of attention and norms."""

    def parts_of(self, replacement: Replacement) -> list[Part]:
        """Its parts in the order in which they read."""
        return sorted(replacement.parts, key=lambda part: self.order.index(part.reads))


def run_frozen(
    model: nn.Module, replacement: Replacement, tokens: Tensor, keep: Tensor
) -> FrozenForward:
    """The frozen forward of tokens int64 [P]; dictionaries stand where keep bool [P] is true.

    Raises `ModelError` for weights that are not on a device (offloaded) and for a model without
    an unembedding, `ConfigError` for a prompt longer than the context or for dictionaries of
    other widths, `NonFiniteError` for logits that are not finite.
    """
    _check(model, tokens)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(frozen(model))
        forward = FrozenForward(tokens, keep, torch.empty(0), biases=_biases(model))
        stack.enter_context(with_gradients(forward.biases))
        stack.enter_context(_from_embedding(model, forward))
        for name in replacement.read:
            stack.callback(_hook_read(model, replacement.points[name], forward).remove)
        for name in replacement.written:
            point, replace = replacement.points[name], _writer(name, replacement, forward)
            stack.callback(_hook_inside(model, point).remove)
            stack.enter_context(spliced(model, point, replace))
        stack.callback(_hook_final(model, forward).remove)
        output = model(input_ids=tokens[None], use_cache=False)
    forward.logits = output.logits[0].detach()
    if not bool(torch.isfinite(forward.logits).all()):
        raise NonFiniteError(
            "The model gives logits that are not finite for this prompt: look at its weights, or "
            "load it in float32 (model.dtype=float32)."
        )
    _check_order(forward, replacement)
    return forward


def _check(model: nn.Module, tokens: Tensor) -> None:
    if tokens.ndim != 1 or not len(tokens):
        raise ConfigError(
            f"The prompt has tokens of shape {list(tokens.shape)}; wanted [P], P > 0."
        )
    if not layer_numbers(model):
        raise ModelError(
            f"{type(model).__name__} is of no family in the table, so its residual stream is not "
            "known. Attribution graphs need a decoder of the table of families."
        )
    config: Any = model.config
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and len(tokens) > longest:
        raise ConfigError(
            f"The prompt has {len(tokens)} tokens, and the model was made for at most {longest}. "
            "Give a shorter one."
        )
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        raise ModelError(
            f"Gradients need all weights on devices, and {len(away)} of them are offloaded, the "
            f"first {away[0]!r}. Use more devices (model.device_map=auto with GPUs) or a smaller "
            "dtype, without model.offload_folder and without model.max_memory.cpu."
        )


def _biases(model: nn.Module) -> dict[str, Tensor]:
    """Biases by path: of these, those that add to the stream or to what is read will count.

    Those of queries and keys get no gradient, as patterns are frozen, and those inside MLPs none,
    as MLPs are not gone through.
    """
    return {
        path: parameter
        for path, parameter in model.named_parameters()
        if path.rpartition(".")[2] == "bias" and parameter.ndim == 1
    }


@contextmanager
def with_gradients(biases: Mapping[str, Tensor]) -> Iterator[None]:
    """Parameters take gradients while the block lasts, and are then as they were."""
    before = {path: parameter.requires_grad for path, parameter in biases.items()}
    for parameter in biases.values():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for path, parameter in biases.items():
            parameter.requires_grad_(before[path])


@contextmanager
def _from_embedding(model: nn.Module, forward: FrozenForward) -> Iterator[None]:
    def replace(tensor: Tensor) -> Tensor:
        forward.embedding = tensor.detach().clone().requires_grad_(True)
        return forward.embedding

    with spliced(model, resolve(model, f"resid_pre.{layer_numbers(model)[0]}"), replace):
        yield


def _hook_read(model: nn.Module, point: HookPoint, forward: FrozenForward) -> Any:
    module = find_module(model, point)

    def seen(tensor: Tensor) -> None:
        forward.read[point.name] = tensor
        forward.order.append(point.name)

    if point.side == "in":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen(first_argument(point, args, kwargs)[1])

        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(lambda _, __, output: seen(first_output(point, output)))


def _hook_inside(model: nn.Module, point: HookPoint) -> Any:
    """Nothing inside a module whose output is a leaf needs a gradient, so it keeps no graph."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        where, tensor = first_argument(point, args, kwargs)
        if isinstance(where, int):
            return (tensor.detach(), *args[1:]), kwargs
        return args, {**kwargs, where: tensor.detach()}

    return find_module(model, point).register_forward_pre_hook(before, with_kwargs=True)


def _writer(
    name: str, replacement: Replacement, forward: FrozenForward
) -> Callable[[Tensor], Tensor]:
    """Puts the leaf in place, with the skip connection in front of it where there is one."""

    def replace(tensor: Tensor) -> Tensor:
        forward.order.append(name)
        forward.written[name] = tensor.detach()[0]
        skipped = _skipped(name, replacement, forward)
        if skipped is None:
            forward.leaves[name] = tensor.detach().clone().requires_grad_(True)
            return forward.leaves[name]
        forward.leaves[name] = (tensor - skipped).detach().requires_grad_(True)
        return forward.leaves[name] + skipped

    return replace


def _skipped(name: str, replacement: Replacement, forward: FrozenForward) -> Tensor | None:
    if name not in replacement.skips:
        return None
    read, W_skip = replacement.skips[name]
    if read not in forward.read:
        raise ConfigError(
            f"The skip connection to {name!r} reads {read!r}, which this forward has not come by "
            "yet. Wanted a hook point before it."
        )
    x = forward.read[read]
    return (x @ W_skip.to(x.dtype).T) * forward.keep[None, :, None]


def _hook_final(model: nn.Module, forward: FrozenForward) -> Any:
    path = unembedding_path(model)

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        forward.final = args[0]
        return (args[0].detach(), *args[1:])

    return model.get_submodule(path).register_forward_pre_hook(before)


def unembedding_path(model: nn.Module) -> str:
    """The module that makes logits. Raises `ModelError` for a model that makes none."""
    family = family_of(getattr(model, "config", None))
    path = None if family is None else family.unembedding
    modules = dict(model.named_modules())
    if path is None or getattr(modules.get(path), "weight", None) is None:
        raise ModelError(
            f"{type(model).__name__} has no unembedding that is one matrix, so there is no logit "
            "to attribute."
        )
    return path


def _check_order(forward: FrozenForward, replacement: Replacement) -> None:
    points = [*replacement.read, *replacement.written]
    missing = [name for name in points if name not in forward.order]
    if missing or forward.final is None:
        raise ConfigError(f"The forward did not come by {', '.join(missing) or 'the unembedding'}.")
    aside = [name for name, tensor in forward.read.items() if not tensor.requires_grad]
    if aside:
        raise ConfigError(
            f"{', '.join(aside)} lies inside a module that a dictionary stands for, so nothing "
            "of the residual stream is seen to come there. Wanted what the module receives."
        )
    widths = {name: t.shape[-1] for name, t in {**forward.read, **forward.leaves}.items()}
    check_widths(replacement.parts, widths)
    for part in replacement.parts:
        for block in part.writes:
            if forward.order.index(block.hook_point) < forward.order.index(part.reads):
                raise ConfigError(
                    f"The dictionary {part.name!r} reads {part.reads!r} and writes "
                    f"{block.hook_point!r}, which the model computes before it."
                )
