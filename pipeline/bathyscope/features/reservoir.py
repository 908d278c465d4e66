"""Keeps a few rows for every latent: those with the smallest keys.

Firings flow in block by block; sorted rows and values [latents, capacity] stay. What is kept is a
function of the set of firings alone: any order or partition of the stream, and firings that come
twice, give the same state. `examples.py` chooses the keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bathyscope.features.firings import Firings

Keys = NDArray[np.int64]
_LARGEST = np.iinfo(np.int64).max
# Firings sorted at once. A cold reservoir lets everything through, and this bounds that sort to
# about 100 MB; smaller chunks sort what is held again too often.
_CHUNK_FIRINGS = 1 << 20


class RowReservoir:
    """For each latent the `capacity` best rows, at most one per group of rows.

    Best is the smallest (key, row). The group of row r is r // rows_per_group; of a group only the
    best row counts. Keys come from `key(firings)`, int64 below 2^63 - 1.
    Memory: 12 bytes per place and 8 per latent.
    """

    def __init__(
        self,
        num_latents: int,
        capacity: int,
        *,
        rows_per_group: int,
        key: Callable[[Firings], Keys],
    ) -> None:
        if num_latents < 1 or capacity < 1 or rows_per_group < 1:
            raise ValueError(
                f"num_latents {num_latents}, places per latent {capacity}, rows per group "
                f"{rows_per_group}: wanted at least 1 of each"
            )
        self.num_latents, self.capacity, self.rows_per_group = num_latents, capacity, rows_per_group
        self._key = key
        self.rows = np.full((num_latents, capacity), -1, dtype=np.int64)
        self.values = np.zeros((num_latents, capacity), dtype=np.float32)
        self._worst = np.full(num_latents, _LARGEST, dtype=np.int64)

    def insert(self, firings: Firings) -> None:
        """Consider firings for a place."""
        for start in range(0, len(firings.rows), _CHUNK_FIRINGS):
            self._insert_part(firings.take(slice(start, start + _CHUNK_FIRINGS)))

    def held(self, latents: NDArray[np.int64]) -> Firings:
        """Return the firings that are held for some latents, empty places left out."""
        rows, values = self.rows[latents], self.values[latents]
        taken = rows >= 0
        owners = np.broadcast_to(latents[:, None], rows.shape)
        return Firings(owners[taken], rows[taken], values[taken])

    def restore(self, rows: NDArray[Any], values: NDArray[Any]) -> None:
        """Take the places of a saved reservoir of the same shape."""
        if rows.shape != self.rows.shape or values.shape != rows.shape:
            raise ValueError(
                f"rows {rows.shape} and values {values.shape}: wanted both as {self.rows.shape}"
            )
        self.rows, self.values = rows.astype(np.int64), values.astype(np.float32)
        full = np.flatnonzero(self.rows[:, -1] >= 0)
        last = Firings(full, self.rows[full, -1], self.values[full, -1])
        self._worst = np.full(self.num_latents, _LARGEST, dtype=np.int64)
        self._worst[full] = self._key(last)

    def _insert_part(self, firings: Firings) -> None:
        keys = self._key(firings)
        # Equal to the worst still competes: the smaller row wins.
        passing = keys <= self._worst[firings.latents]
        if not passing.any():
            return
        new = firings.take(passing)
        touched = np.unique(new.latents)
        held = self.held(touched)
        pool = new.join(held)
        pool_keys = np.concatenate([keys[passing], self._key(held)])
        best = self._best_of_groups(pool, pool_keys)
        self._place(pool.take(best), pool_keys[best], touched)

    def _best_of_groups(self, pool: Firings, keys: Keys) -> NDArray[np.int64]:
        """Return places in the pool of the best row of each (latent, group), best first."""
        order = np.lexsort((pool.rows, keys, pool.latents))
        latents, groups = pool.latents[order], pool.rows[order] // self.rows_per_group
        # Stable, so that the best row of each group stays in front of the others.
        by_group = np.lexsort((groups, latents))
        changes = np.ones(len(order), dtype=bool)
        changes[1:] = (np.diff(latents[by_group]) != 0) | (np.diff(groups[by_group]) != 0)
        return order[np.sort(by_group[changes])]

    def _place(self, best: Firings, keys: Keys, touched: NDArray[np.int64]) -> None:
        """Fill the places of the touched latents with firings sorted by latent, then rank."""
        starts = np.searchsorted(best.latents, touched)
        sizes = np.diff(np.append(starts, len(best.latents)))
        ranks = np.arange(len(best.latents)) - np.repeat(starts, sizes)
        kept = ranks < self.capacity
        latents, ranks = best.latents[kept], ranks[kept]
        # Places only fill up, so the new firings overwrite all that was held.
        self.rows[latents, ranks] = best.rows[kept]
        self.values[latents, ranks] = best.values[kept]
        last = ranks == self.capacity - 1
        self._worst[latents[last]] = keys[kept][last]
