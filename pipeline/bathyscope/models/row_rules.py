"""How what a module gives becomes rows: [items, positions, d], whatever its shape.

Flows in: a tensor of a hook point and the number of items of the batch. Flows out: rows, and back
again, for replacing them. Row r of an item is its position r.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.errors import HookPointError


class RowShape(NamedTuple):
    """What a hook point gives for each item."""

    positions: int
    """P: rows of an item."""
    width: int
    """d: length of a row."""


def rows_of(name: str, tensor: Tensor, items: int, *, channels_last: bool = False) -> Tensor:
    """The rows [items, P, d] of a tensor, which share its memory where they can.

    | tensor | rows |
    | --- | --- |
    | [items, positions, d] | as it is |
    | [items, d] | P = 1 |
    | [items * positions, d], as routers of experts see it | P = positions |
    | [items, channels, height, width] | P = height * width, row by row; d = channels |
    | [items, height, width, channels] with `channels_last` | the same |

    Raises HookPointError for any other shape, and where the first axis does not fit the items.
    """
    shape = list(tensor.shape)
    if not torch.is_floating_point(tensor):
        raise HookPointError(f"{name} gives {tensor.dtype}; wanted real numbers.")
    if tensor.ndim == 2 and items and shape[0] % items == 0 and shape[0]:
        return tensor.reshape(items, shape[0] // items, shape[1])
    if tensor.ndim in (3, 4) and shape[0] == items:
        if tensor.ndim == 3:
            return tensor
        maps = tensor if channels_last else tensor.permute(0, 2, 3, 1)
        return maps.reshape(items, -1, maps.shape[-1])
    raise HookPointError(
        f"{name} gives {shape} for {items} items. Wanted [items, positions, d], [items, d], "
        "[items * positions, d], or a map [items, channels, height, width] (with channels last "
        "where that is said of the hook point)."
    )


def as_tensor(rows: Tensor, like: Tensor, *, channels_last: bool = False) -> Tensor:
    """The inverse of `rows_of`: rows [items, P, d] in the shape of the tensor they came from."""
    if like.ndim != 4 or channels_last:
        return rows.reshape(like.shape)
    items, channels, height, width = like.shape
    return rows.reshape(items, height, width, channels).permute(0, 3, 1, 2)


def row_shape(name: str, tensor: Tensor, items: int, *, channels_last: bool = False) -> RowShape:
    """P and d of a hook point; the tensor may be on the meta device."""
    rows = rows_of(name, tensor, items, channels_last=channels_last)
    return RowShape(rows.shape[1], rows.shape[2])
