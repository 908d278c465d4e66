"""Dropping blocks: while a `with` block lasts, they hand on what they receive.

Flows in: a model and block numbers, or module paths in a model of no family. Nothing is taken out
of the model, so masks, caches and device maps stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from bathyscope.errors import HookPointError
from bathyscope.models.capture import find_module, first_argument, first_output
from bathyscope.models.hook_points import HookPoint, layer_numbers, resolve


@contextmanager
def drop_layers(model: nn.Module, start: int, n: int) -> Iterator[nn.Module]:
    """Blocks start … start + n - 1 pass their input through. Raises what `drop_blocks` raises."""
    with drop_blocks(model, range(start, start + n)):
        yield model


@contextmanager
def drop_blocks(model: nn.Module, blocks: Iterable[int | str]) -> Iterator[nn.Module]:
    """A set of blocks, by number or by module path, pass their input through.

    A block that returns a tensor runs in its first forward only, which shows what it returns. It
    goes on running where it has to: for the other elements of a tuple, whose first is replaced, and
    to fill a cache of keys and values. Raises HookPointError for blocks that are not there, and in
    a forward for a module that returns another shape than it receives.
    """
    points = [_point(model, block) for block in dict.fromkeys(blocks)]
    with ExitStack() as stack:
        for point in points:
            _pass_through(find_module(model, point), point, stack)
        yield model


def _point(model: nn.Module, block: int | str) -> HookPoint:
    if isinstance(block, str):
        return resolve(model, block)
    held = layer_numbers(model)
    if not held:
        raise HookPointError(
            f"Block {block} was to be dropped, but {type(model).__name__} is of no family in the "
            "table, so its blocks have no numbers. Give module paths."
        )
    if block not in held:
        raise HookPointError(
            f"Block {block} was to be dropped, but the model holds blocks {held[0]} to {held[-1]}."
        )
    return resolve(model, f"resid_pre.{block}")


def _pass_through(module: nn.Module, point: HookPoint, stack: ExitStack) -> None:
    """Replace the forward of one module until the stack closes."""
    own = module.__dict__.get("forward")
    module.forward = _passing(module.forward, point)
    if own is None:
        stack.callback(delattr, module, "forward")
    else:
        # Accelerate's hooks, or a drop around this one, put their forward there.
        stack.callback(setattr, module, "forward", own)


def _passing(forward: Callable[..., Any], point: HookPoint) -> Callable[..., Any]:
    returned: list[Tensor] = []

    def passing(*args: Any, **kwargs: Any) -> Any:
        tensor = first_argument(point, args, kwargs)[1]
        if returned and not any(_is_cache(value) for value in (*args, *kwargs.values())):
            return tensor.to(returned[0].dtype)
        output = forward(*args, **kwargs)
        given = first_output(point, output)
        if given.shape != tensor.shape:
            raise HookPointError(
                f"{point.path} receives {list(tensor.shape)} and returns {list(given.shape)}, so "
                "it cannot be dropped: what follows needs the other shape."
            )
        value = tensor.to(given)
        if isinstance(output, Tensor):
            returned.append(given.new_empty(0))
            return value
        if hasattr(output, "_fields"):
            return output._replace(**{output._fields[0]: value})
        return type(output)([value, *output[1:]])

    return passing


def _is_cache(value: Any) -> bool:
    """Whether a block is given a place for keys, values or states that later forwards read."""
    return type(value).__name__.endswith("Cache")
