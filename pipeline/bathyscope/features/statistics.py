"""How strongly each latent fires: count, sum, sum of squares, maximum, histogram.

Top-k rows flow in block by block; five arrays over latents stay. Counts, maxima and histograms
are the same for any split of the stream; float64 sums differ in their last digits.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bathyscope.features.firings import flatten_rows

_LARGEST_INT32 = np.iinfo(np.int32).max
_FIELDS = ("counts", "sums", "square_sums", "maxima", "histogram")


class LatentStatistics:
    """Streaming statistics of the non-zero activations of every latent.

    The histogram has bins in log2(value / scale), the same for all latents, because a per-latent
    upper limit would need a second pass:

        bin = floor(bins_per_octave · (log2(value / scale) - lowest_octave)), clipped to the bins

    So the first bin also holds everything smaller (and negative values), the last everything
    larger. With `scale` near the typical activation, the defaults cover scale/4096 to scale·256.

    Memory: (28 + 4·num_bins) bytes per latent, 188 MB for a million latents and 40 bins; int32
    bins become int64 by themselves once 2^31 rows were seen.
    """

    def __init__(
        self,
        num_latents: int,
        *,
        scale: float,
        num_bins: int = 40,
        bins_per_octave: int = 2,
        lowest_octave: int = -12,
    ) -> None:
        if num_latents < 1 or num_bins < 1 or bins_per_octave < 1:
            raise ValueError(
                f"num_latents {num_latents}, num_bins {num_bins}, bins_per_octave "
                f"{bins_per_octave}: wanted at least 1 of each"
            )
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale is {scale}: wanted a finite activation above 0")
        self.num_latents, self.num_bins = num_latents, num_bins
        self.scale, self.bins_per_octave = float(scale), bins_per_octave
        self.lowest_octave = lowest_octave
        self.num_rows = 0
        self.counts = np.zeros(num_latents, dtype=np.int64)
        self.sums = np.zeros(num_latents, dtype=np.float64)
        self.square_sums = np.zeros(num_latents, dtype=np.float64)
        self.maxima = np.full(num_latents, -np.inf, dtype=np.float32)
        self.histogram: NDArray[Any] = np.zeros((num_latents, num_bins), dtype=np.int32)

    def update(self, values: NDArray[Any], indices: NDArray[Any]) -> None:
        """Add top-k rows: values float [n, k] (0 is padding), indices integer [n, k].

        Raises as `flatten_rows` does, before anything is added.
        """
        rows = np.arange(len(values))
        firings = flatten_rows(values, indices, rows, num_latents=self.num_latents)
        self._count_rows(len(values))
        latents, fired = firings.latents, firings.values.astype(np.float64)
        np.add.at(self.counts, latents, 1)
        np.add.at(self.sums, latents, fired)
        np.add.at(self.square_sums, latents, fired * fired)
        np.maximum.at(self.maxima, latents, firings.values)
        # Scattered adds touch the firings only; bincount would pass over latents x bins each time.
        np.add.at(self.histogram.reshape(-1), latents * self.num_bins + self._bins(fired), 1)

    def merge(self, other: LatentStatistics) -> None:
        """Add the rows of another accumulator with the same latents and bins."""
        if self._shape() != other._shape():
            raise ValueError(f"cannot merge statistics of {other._shape()} into {self._shape()}")
        self._count_rows(other.num_rows)
        self.counts += other.counts
        self.sums += other.sums
        self.square_sums += other.square_sums
        np.maximum(self.maxima, other.maxima, out=self.maxima)
        self.histogram += other.histogram

    def means(self) -> NDArray[np.float64]:
        """Return the mean activation where the latent fires [num_latents]; NaN if it never did."""
        fired = self.counts > 0
        return np.where(fired, self.sums / np.maximum(self.counts, 1), np.nan)

    def deviations(self) -> NDArray[np.float64]:
        """Return the standard deviation (divided by count) where the latent fires; NaN if never."""
        means = self.means()
        variances = self.square_sums / np.maximum(self.counts, 1) - means * means
        return np.sqrt(np.maximum(variances, 0))

    def edges(self) -> NDArray[np.float64]:
        """Return the bin edges [num_bins + 1] in units of activation."""
        octaves = self.lowest_octave + np.arange(self.num_bins + 1) / self.bins_per_octave
        return self.scale * np.exp2(octaves)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state as named arrays; what a store or an npz without pickle can hold."""
        shape = np.array([self.num_rows, self.bins_per_octave, self.lowest_octave])
        arrays = {field: getattr(self, field) for field in _FIELDS}
        return arrays | {"shape": shape, "scale": np.array(self.scale)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """Return the accumulator that `to_arrays` described; the arrays are copied."""
        num_rows, bins_per_octave, lowest_octave = (int(n) for n in arrays["shape"])
        num_latents, num_bins = arrays["histogram"].shape
        made = cls(
            num_latents,
            scale=float(arrays["scale"]),
            num_bins=num_bins,
            bins_per_octave=bins_per_octave,
            lowest_octave=lowest_octave,
        )
        made.num_rows = num_rows
        for field in _FIELDS:
            setattr(made, field, arrays[field].copy())
        return made

    def _bins(self, fired: NDArray[np.float64]) -> NDArray[np.int64]:
        # The smallest float stands for negative values: they belong in the first bin.
        octaves = np.log2(np.maximum(fired, np.finfo(np.float64).tiny) / self.scale)
        bins = np.floor((octaves - self.lowest_octave) * self.bins_per_octave)
        return np.clip(bins, 0, self.num_bins - 1).astype(np.int64)

    def _count_rows(self, num_rows: int) -> None:
        self.num_rows += num_rows
        # A row adds at most 1 to a bin, so the row count bounds every bin.
        if self.num_rows > _LARGEST_INT32:
            self.histogram = self.histogram.astype(np.int64, copy=False)

    def _shape(self) -> tuple[float, ...]:
        bins = (self.num_bins, self.bins_per_octave, self.lowest_octave)
        return (self.num_latents, self.scale, *bins)
