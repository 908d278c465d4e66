"""Rows that show what a latent responds to: the strongest ones, and a fair sample of all.

Top-k rows flow in block by block; a few rows per latent stay. Both states are functions of the
set of firings, so any order or split of the stream, and merged parts, give the same rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bathyscope.features.firings import Firings, flatten_rows
from bathyscope.features.reservoir import Keys, RowReservoir

_SIGN = np.uint64(1 << 63)


class TopExamples:
    """For each latent the rows with the largest activations, one per item.

    An item holds `rows_per_item` rows (row r belongs to item r // rows_per_item); of each item
    only the largest activation counts, because neighbouring tokens repeat each other. Ties go to
    the smaller row. Values compare as float32.
    """

    def __init__(self, num_latents: int, num_examples: int, *, rows_per_item: int = 1) -> None:
        self._kept = RowReservoir(
            num_latents, num_examples, rows_per_group=rows_per_item, key=_largest_first
        )

    @property
    def rows(self) -> NDArray[np.int64]:
        """Global row ids [num_latents, num_examples], largest activation first; -1 is empty."""
        return self._kept.rows

    @property
    def values(self) -> NDArray[np.float32]:
        """Activations [num_latents, num_examples] that go with `rows`; 0 where empty."""
        return self._kept.values

    def update(self, values: NDArray[Any], indices: NDArray[Any], rows: NDArray[Any]) -> None:
        """Consider top-k rows: values float [n, k], indices integer [n, k], rows integer [n].

        Raises as `flatten_rows` does, before anything is kept.
        """
        num_latents = self._kept.num_latents
        self._kept.insert(flatten_rows(values, indices, rows, num_latents=num_latents))

    def merge(self, other: TopExamples) -> None:
        """Consider everything that another state of the same shape holds."""
        _merge(self._kept, other._kept)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state as named arrays."""
        return {"rows": self.rows, "values": self.values}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], *, rows_per_item: int = 1) -> Self:
        """Return the state that `to_arrays` described; the arrays are copied."""
        made = cls(*arrays["rows"].shape, rows_per_item=rows_per_item)
        made._kept.restore(arrays["rows"], arrays["values"])
        return made


class QuantileBands(NamedTuple):
    """Sampled rows of each latent sorted by activation and cut into bands of equal numbers."""

    rows: NDArray[np.int64]
    """Global row ids [num_latents, num_samples], largest activation first; -1 is empty."""
    values: NDArray[np.float32]
    """Activations [num_latents, num_samples]; 0 where empty."""
    bands: NDArray[np.int64]
    """Band of each sample [num_latents, num_samples]: 0 is the strongest; -1 is empty."""


class SampledExamples:
    """For each latent a uniform sample, without replacement, of the rows where it fires.

    The sample is the `num_samples` firings with the smallest hash of (seed, row, latent): three
    rounds of splitmix64 (Steele, Lea and Flood 2014). The same seed gives the same sample on
    every machine, whatever the order of the stream.
    """

    def __init__(self, num_latents: int, num_samples: int, *, seed: int) -> None:
        self.seed = seed

        def hashed(firings: Firings) -> Keys:
            return firing_hash(firings.latents, firings.rows, seed=seed)

        self._kept = RowReservoir(num_latents, num_samples, rows_per_group=1, key=hashed)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Global row ids [num_latents, num_samples] in the order of their hash; -1 is empty."""
        return self._kept.rows

    @property
    def values(self) -> NDArray[np.float32]:
        """Activations [num_latents, num_samples] that go with `rows`; 0 where empty."""
        return self._kept.values

    def update(self, values: NDArray[Any], indices: NDArray[Any], rows: NDArray[Any]) -> None:
        """Consider top-k rows: values float [n, k], indices integer [n, k], rows integer [n].

        Raises as `flatten_rows` does, before anything is kept.
        """
        num_latents = self._kept.num_latents
        self._kept.insert(flatten_rows(values, indices, rows, num_latents=num_latents))

    def merge(self, other: SampledExamples) -> None:
        """Consider everything that another sample of the same shape and seed holds."""
        if other.seed != self.seed:
            raise ValueError(
                f"cannot merge a sample with seed {other.seed} into one of {self.seed}"
            )
        _merge(self._kept, other._kept)

    def quantile_bands(self, num_bands: int) -> QuantileBands:
        """Return the samples by falling activation, cut into `num_bands` bands per latent.

        Of c samples, place i (from 0) is in band floor(i · num_bands / c): band sizes differ by
        at most 1, and c < num_bands leaves some bands empty. Equal activations: smaller row first.
        """
        if num_bands < 1:
            raise ValueError(f"num_bands is {num_bands}: wanted at least 1")
        empty = self.rows < 0
        order = np.lexsort((self.rows, -self.values, empty), axis=1)
        num_held = (~empty).sum(axis=1, keepdims=True)
        places = np.arange(order.shape[1])[None, :]
        bands = places * num_bands // np.maximum(num_held, 1)
        return QuantileBands(
            rows=np.take_along_axis(self.rows, order, axis=1),
            values=np.take_along_axis(self.values, order, axis=1),
            bands=np.where(places < num_held, bands, -1),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state as named arrays."""
        return {"rows": self.rows, "values": self.values, "seed": np.array(self.seed)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """Return the state that `to_arrays` described; the arrays are copied."""
        made = cls(*arrays["rows"].shape, seed=int(arrays["seed"]))
        made._kept.restore(arrays["rows"], arrays["values"])
        return made


def firing_hash(latents: NDArray[np.int64], rows: NDArray[np.int64], *, seed: int) -> Keys:
    """Return a 64-bit hash of (seed, row, latent) for each firing.

    Sign-flipped to int64, so that signed order is the unsigned order of the hash.
    """
    seeds = np.full(rows.shape, seed % (1 << 64), dtype=np.uint64)
    mixed = _splitmix64(_splitmix64(seeds) ^ rows.astype(np.uint64))
    return (_splitmix64(mixed ^ latents.astype(np.uint64)) ^ _SIGN).view(np.int64)


def _splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # Arrays of uint64 wrap around silently, which is what the algorithm asks for.
    mixed = state + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _largest_first(firings: Firings) -> Keys:
    """Return keys that rise as the float32 activation falls."""
    bits = firings.values.view(np.int32).astype(np.int64)
    # IEEE floats order like sign and magnitude; negative ones have to be turned round.
    ordered = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return -ordered


def _merge(kept: RowReservoir, other: RowReservoir) -> None:
    shape = (*kept.rows.shape, kept.rows_per_group)
    other_shape = (*other.rows.shape, other.rows_per_group)
    if shape != other_shape:
        raise ValueError(
            f"cannot merge (latents, places, rows per item) of {other_shape} into {shape}"
        )
    kept.insert(other.held(np.arange(other.num_latents)))
