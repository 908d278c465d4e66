"""The tokens around an example, and how one latent fires on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bathyscope.errors import NonFiniteError


def token_window(position: int, item_length: int, *, before: int = 24, after: int = 8) -> slice:
    """Return the positions from `before` ahead of `position` to `after` behind it, inclusive.

    Cut at both ends of the item: near an end the window is shorter, it does not slide.
    Raises `ValueError` for a position outside the item.
    """
    if not 0 <= position < item_length:
        raise ValueError(f"position is {position}: wanted 0 to {item_length - 1} in this item")
    if before < 0 or after < 0:
        raise ValueError(f"before {before} and after {after}: wanted 0 or more tokens")
    return slice(max(0, position - before), min(item_length, position + after + 1))


def latent_activations(
    latent: int, values: NDArray[Any], indices: NDArray[Any]
) -> NDArray[np.float32]:
    """Return the activation of one latent on each row, float32 [...], 0 where it is not in the row.

    `values` and `indices` are the top-k arrays of the window's rows [..., k]; slots with value 0
    are padding. Raises `NonFiniteError` when the activation is NaN or infinite.
    """
    if values.shape != indices.shape or values.ndim < 1:
        raise ValueError(f"values {values.shape} and indices {indices.shape}: wanted one shape")
    if latent < 0:
        raise ValueError(f"latent is {latent}: wanted 0 or more")
    activations = np.where(indices == latent, values, 0).sum(axis=-1).astype(np.float32)
    if not np.isfinite(activations).all():
        raise NonFiniteError(f"latent {latent} is NaN or infinite on a row: encode it again")
    return activations
