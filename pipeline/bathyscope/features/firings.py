"""Top-k rows as a flat list of firings: the shape in which latents are counted and ranked.

Arrays from a latent store flow in; checked triples (latent, row, value) flow out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bathyscope.errors import NonFiniteError


class Firings(NamedTuple):
    """The slots of top-k rows whose value is not 0, in row order."""

    latents: NDArray[np.int64]
    """Latent of each firing [firings]."""
    rows: NDArray[np.int64]
    """Global row id of each firing [firings]."""
    values: NDArray[np.float32]
    """Activation of each firing [firings]."""

    def take(self, selection: slice | NDArray[Any]) -> Firings:
        """Return some of the firings: a slice, a bool mask or places."""
        return Firings(self.latents[selection], self.rows[selection], self.values[selection])

    def join(self, other: Firings) -> Firings:
        """Return these firings followed by others."""
        return Firings(
            np.concatenate([self.latents, other.latents]),
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.values, other.values]),
        )


def flatten_rows(
    values: NDArray[Any], indices: NDArray[Any], rows: NDArray[Any], *, num_latents: int
) -> Firings:
    """Return the firings of top-k rows; slots with value 0 are padding and may hold any index.

    `values` float [n, k] (kept as float32), `indices` integer [n, k], `rows` integer [n].
    Raises `NonFiniteError` for a value that is NaN or infinite in float32 and `ValueError`
    for wrong shapes, a negative row or an index outside the latents.
    """
    if values.ndim != 2 or indices.shape != values.shape or rows.shape != values.shape[:1]:
        raise ValueError(
            f"values {values.shape}, indices {indices.shape}, rows {rows.shape}: "
            "wanted [n, k], [n, k] and [n]"
        )
    # A float64 value beyond float32 becomes infinite here and is refused just below.
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        row, slot = np.argwhere(~np.isfinite(values))[0]
        raise NonFiniteError(
            f"row {int(rows[row])} has value {values[row, slot]} for latent "
            f"{int(indices[row, slot])}: wanted finite activations; encode these rows again"
        )
    kept = values != 0
    fired = indices[kept].astype(np.int64)
    firing_rows = np.broadcast_to(rows[:, None], values.shape)[kept].astype(np.int64)
    if len(fired) and (fired.min() < 0 or fired.max() >= num_latents):
        raise ValueError(
            f"indices run from {fired.min()} to {fired.max()}: wanted 0 to {num_latents - 1}; "
            "the rows belong to a dictionary of another size"
        )
    if len(firing_rows) and firing_rows.min() < 0:
        raise ValueError(f"row id {firing_rows.min()} is negative: wanted global row ids from 0")
    return Firings(fired, firing_rows, values[kept])
