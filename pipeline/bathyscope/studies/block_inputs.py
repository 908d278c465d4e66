"""What each block of a model receives, so that blocks can be run one after another.

Flows in: a model of the family table and calibration batches. The batches run through the model
once; from then on each block is run alone, on what the blocks before it gave. A pass over all
blocks costs as much as a forward, and the hidden states of one place are held, in CPU memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bathyscope.models.capture import (
    Inputs,
    StopForward,
    find_module,
    first_argument,
    first_output,
    run_forward,
)
from bathyscope.models.hook_points import HookPoint, layer_numbers, resolve


class _Call(NamedTuple):
    """How a block was called, without its hidden states."""

    where: int | str
    """Place or keyword of the hidden states."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    device: torch.device
    dtype: torch.dtype


class BlockInputs:
    """Hidden states before the next block, for each batch, and how each block is called."""

    def __init__(self, model: nn.Module, batches: Sequence[Inputs]) -> None:
        self._points = [resolve(model, f"resid_pre.{n}") for n in layer_numbers(model)]
        self._blocks = [find_module(model, point) for point in self._points]
        self._calls: list[list[_Call]] = []
        self._hidden: list[Tensor] = []
        with _no_cache(model):
            for batch in batches:
                self._record(model, batch)

    def run(self, index: int) -> None:
        """Run block `index` (counted from 0) on every batch and forget what it gives."""
        for _ in self._outputs(index):
            pass

    def advance(self, index: int) -> None:
        """Run block `index` and keep what it gives: the hidden states before the next."""
        for batch, output in enumerate(self._outputs(index)):
            self._hidden[batch] = output.detach().to("cpu")

    @torch.no_grad()
    def _outputs(self, index: int) -> Iterator[Tensor]:
        for hidden, calls in zip(self._hidden, self._calls, strict=True):
            call = calls[index]
            value = hidden.to(call.device, call.dtype)
            args, kwargs = call.args, call.kwargs
            if isinstance(call.where, int):
                args = (value, *args)
            else:
                kwargs = {**kwargs, call.where: value}
            yield first_output(self._points[index], self._blocks[index](*args, **kwargs))

    @torch.no_grad()
    def _record(self, model: nn.Module, batch: Inputs) -> None:
        calls: list[_Call] = []
        with contextlib.ExitStack() as stack:
            for index, (point, block) in enumerate(zip(self._points, self._blocks, strict=True)):
                hook = _recorder(point, calls, self._hidden, index, len(self._blocks))
                handle = block.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            with contextlib.suppress(StopForward):
                run_forward(model, without_cache(batch))
        assert len(calls) == len(self._blocks), "a block of the family was not run"
        self._calls.append(calls)


def without_cache(batch: Inputs) -> Inputs:
    """The same inputs, whose forward keeps no keys and values: blocks are run more than once."""
    if isinstance(batch, Mapping) and "use_cache" in batch:
        return {**batch, "use_cache": False}
    return batch


def _recorder(
    point: HookPoint, calls: list[_Call], hidden: list[Tensor], index: int, total: int
) -> Any:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        where, tensor = first_argument(point, args, kwargs)
        if index == 0:
            hidden.append(tensor.detach().to("cpu", copy=True))
        others = {name: value for name, value in kwargs.items() if name != where}
        rest = args[1:] if where == 0 else args
        calls.append(_Call(where, rest, others, tensor.device, tensor.dtype))
        if index == total - 1:
            raise StopForward

    return before


@contextlib.contextmanager
def _no_cache(model: nn.Module) -> Iterator[None]:
    config: Any = getattr(model, "config", None)
    before = getattr(config, "use_cache", None)
    if before:
        config.use_cache = False
    try:
        yield
    finally:
        if before:
            config.use_cache = before
