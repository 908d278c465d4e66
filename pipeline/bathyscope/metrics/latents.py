"""How often each latent fires: density, dead share, density histogram.

Top-k rows flow in (value 0 is padding); one int64 count per latent stays. Sums of integers, so
any split of the stream gives the same state.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bathyscope.metrics.arrays import pack_counts, unpack
from bathyscope.metrics.finite import require_finite


class DeadShare(NamedTuple):
    """The share of latents that stayed silent, with what it was judged on."""

    share: float
    """Silent latents over all latents."""
    num_dead: int
    """Latents that never fired."""
    num_rows: int
    """Rows (tokens) that every latent had to fire on: fewer rows overstate the share."""


class DensityHistogram(NamedTuple):
    """How many latents have which firing density."""

    log10_edges: NDArray[np.float64]
    """Edges [bins + 1] in log10(density); a bin holds its lower edge, the last also its upper."""
    counts: NDArray[np.int64]
    """Latents per bin [bins]; densities under the lowest edge are in the first bin."""
    never: int
    """Latents with no firing at all, in no bin."""


class LatentCounts:
    """Streaming firing counts, int64 [num_latents]; a slot fires where its value is not 0."""

    def __init__(self, num_latents: int) -> None:
        if num_latents < 1:
            raise ValueError(f"num_latents is {num_latents}: wanted at least 1")
        self.num_latents = num_latents
        self.num_rows = 0
        self.counts = torch.zeros(num_latents, dtype=torch.int64)

    @torch.no_grad()
    def update(self, values: Tensor, indices: Tensor) -> None:
        """Add top-k rows: values float [rows, k], indices integer [rows, k].

        Raises `NonFiniteError` for a NaN or infinite value, `ValueError` for an index outside
        the latents in a slot that fires (padding may hold any index).
        """
        if values.ndim != 2 or values.shape != indices.shape:
            raise ValueError(
                f"values is {tuple(values.shape)} and indices is {tuple(indices.shape)}: "
                "wanted both as [rows, k]"
            )
        require_finite("values", values)
        fired = indices[values != 0].to(torch.int64)
        if len(fired) and (int(fired.min()) < 0 or int(fired.max()) >= self.num_latents):
            raise ValueError(
                f"indices run from {int(fired.min())} to {int(fired.max())}: wanted 0 to "
                f"{self.num_latents - 1}; the rows belong to a dictionary of another size"
            )
        self.counts += torch.bincount(fired, minlength=self.num_latents).cpu()
        self.num_rows += len(values)

    def merge(self, other: LatentCounts) -> None:
        """Add the rows of another accumulator over as many latents."""
        if other.num_latents != self.num_latents:
            raise ValueError(
                f"cannot merge counts of {other.num_latents} latents into {self.num_latents}"
            )
        self.counts += other.counts
        self.num_rows += other.num_rows

    def density(self) -> Tensor:
        """Return count / rows, float64 [num_latents]; raises `ValueError` when no row was seen."""
        self._require_rows()
        return self.counts.to(torch.float64) / self.num_rows

    def dead_share(self) -> DeadShare:
        """Return the share of latents with no firing in the rows seen."""
        self._require_rows()
        num_dead = int((self.counts == 0).sum())
        return DeadShare(num_dead / self.num_latents, num_dead, self.num_rows)

    def density_histogram(
        self, *, lowest: int = -8, highest: int = 0, bins_per_decade: int = 4
    ) -> DensityHistogram:
        """Return the number of latents per bin of log10(count / rows), from 10^lowest up."""
        if lowest >= highest or bins_per_decade < 1:
            raise ValueError(
                f"lowest {lowest}, highest {highest}, bins_per_decade {bins_per_decade}: wanted "
                "lowest < highest and at least one bin"
            )
        num_bins = (highest - lowest) * bins_per_decade
        edges = lowest + np.arange(num_bins + 1) / bins_per_decade
        density = self.density().numpy()
        fired = density > 0
        bins = np.searchsorted(edges, np.log10(density[fired]), side="right") - 1
        counts = np.bincount(np.clip(bins, 0, num_bins - 1), minlength=num_bins)
        return DensityHistogram(edges, counts.astype(np.int64), int((~fired).sum()))

    def share_above(self, percent: int) -> float:
        """Return the share of latents that fire on more than `percent` % of the rows."""
        self._require_rows()
        # Whole numbers on both sides: 0.01 has no exact float, so "exactly 1 %" would be luck.
        return int((self.counts * 100 > percent * self.num_rows).sum()) / self.num_latents

    def results(self) -> dict[str, float]:
        """Return the figures by name; raises `ValueError` when no row was seen.

        `dead_share` is judged on `dead_judged_on_rows` rows; read them together.
        """
        dead = self.dead_share()
        return {
            "num_rows": float(self.num_rows),
            "num_latents": float(self.num_latents),
            "mean_density": float(self.density().mean()),
            "dead_share": dead.share,
            "num_dead": float(dead.num_dead),
            "dead_judged_on_rows": float(dead.num_rows),
            "share_above_1_percent": self.share_above(1),
            "share_above_10_percent": self.share_above(10),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values: about 3 bytes per latent for one unit of work."""
        return {
            "num_latents": self.num_latents,
            "num_rows": self.num_rows,
            "counts": pack_counts(self.counts.numpy()),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the accumulator that `to_dict` described."""
        made = cls(state["num_latents"])
        made.num_rows = int(state["num_rows"])
        made.counts = torch.from_numpy(unpack(state["counts"]).astype(np.int64))
        return made

    def _require_rows(self) -> None:
        if self.num_rows == 0:
            raise ValueError("no rows were counted: a density needs at least one row of latents")
