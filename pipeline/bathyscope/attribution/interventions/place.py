"""Which positions of which items a forward computes, so that hooks know where their rows stand.

A forward with a key-value cache computes the newest positions only. Where they begin is read from
the cache as the model is called, so interventions work in any loop that calls the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bathyscope.attribution.interventions.changes import Rows
from bathyscope.attribution.interventions.intervention import Positions, chosen
from bathyscope.errors import HookPointError


class Place:
    """Items and positions of the forward that is running.

    `prompt_length` parts the prompt from what is generated; without it the prompt is what a forward
    without a cache sees. `keep` bool [items, positions] are the only rows that may change.
    """

    def __init__(self, prompt_length: int | None = None, keep: Tensor | None = None) -> None:
        self._given, self._prompt_length = prompt_length, prompt_length or 0
        self._keep = None if keep is None else keep.cpu()
        self._start, self._items, self._count = 0, 0, 0

    def begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A forward of the whole model starts with these arguments."""
        named = (kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
        inputs = next(v for v in (*named, *args, *kwargs.values()) if isinstance(v, Tensor))
        if kwargs.get("cache_params") is not None:
            raise HookPointError(
                "This model's cache does not say how many positions have gone by. Generate "
                "without a cache."
            )
        past = kwargs.get("past_key_values")
        self._start = 0 if past is None else int(past.get_seq_length())
        self._items = len(inputs)
        self._count = inputs.shape[1] if inputs.ndim > 1 else 1
        if self._given is None and self._start == 0:
            self._prompt_length = self._count

    def rows(self, name: str, tensor: Tensor, positions: Positions) -> tuple[Tensor, Rows]:
        """Numbers of the rows of a tensor that are chosen [n], and where they stand.

        Rows are those of the tensor flattened to [rows, d]. Raises `HookPointError` for a tensor
        that has no row for each position.
        """
        rows = tensor.shape[:-1].numel()
        by_position = tensor.ndim == 3 and tensor.shape[:2] == (self._items, self._count)
        flat = tensor.ndim == 2 and rows == self._items * self._count
        if not (by_position or flat):
            raise HookPointError(
                f"{name} gives {list(tensor.shape)} for {self._items} items of {self._count} "
                "positions. Wanted a row for each position, [batch, positions, d]."
            )
        number = torch.arange(rows)
        items, place = number // self._count, number % self._count + self._start
        wanted = chosen(positions, place, self._prompt_length)
        if self._keep is not None:
            wanted = wanted & self._keep[items, place]
        number = number[wanted]
        return number, Rows(items[wanted], place[wanted])


@contextmanager
def placed(model: nn.Module, place: Place) -> Iterator[None]:
    """Every forward of the model in the block tells the place where it begins."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        place.begin(args, kwargs)

    handle = model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
