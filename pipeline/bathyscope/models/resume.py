"""Resume a forward at a block: the blocks before it are passed over.

`restart` (`splice.py`) needs a model that was loaded without them. Here the model is whole, and
its embedding, masks and position tables are made as always; only what the first blocks compute is
known already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from bathyscope.errors import HookPointError
from bathyscope.models.families import family_of
from bathyscope.models.hook_points import layer_numbers
from bathyscope.models.splice import spliced


@contextmanager
def resumed(
    model: nn.Module, layer: int, hidden: Tensor, *, returns_tuple: bool = False
) -> Iterator[None]:
    """Every forward in the block starts at block `layer` with `hidden` [batch, positions, d].

    `returns_tuple` says what this family's blocks return (`blocks_return_tuple`). Raises
    HookPointError for a model of no family, or a layer that it does not hold.
    """
    family = family_of(getattr(model, "config", None))
    held = layer_numbers(model)
    if family is None or layer not in held:
        raise HookPointError(
            f"A forward cannot resume at layer {layer} of {type(model).__name__}: it holds {held}."
        )

    def pass_over(*args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        return (given,) if returns_tuple else given

    blocks = [model.get_submodule(f"{family.blocks}.{n}") for n in held if n < layer]
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = pass_over
    try:
        with spliced(model, f"resid_pre.{layer}", lambda _: hidden):
            yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


@contextmanager
def blocks_return_tuple(model: nn.Module, found: list[bool]) -> Iterator[None]:
    """Append to `found` whether the first block returns a tuple, once a forward has run."""
    family = family_of(getattr(model, "config", None))
    if family is None:
        yield
        return
    first = model.get_submodule(f"{family.blocks}.{layer_numbers(model)[0]}")
    handle = first.register_forward_hook(lambda _, __, out: found.append(isinstance(out, tuple)))
    try:
        yield
    finally:
        handle.remove()
