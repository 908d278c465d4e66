"""Small nights of documents for the tests of drift."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bathyscope.features.drift.documents import ACTIVATION_STEPS, NORM_STEPS, Documents, Scales
from bathyscope.features.drift.part import NightPart
from bathyscope.features.drift.reference import Reference
from bathyscope.features.drift.totals import Totals

SCALES = Scales(activation=2.0, norm=16.0)


class NightRows(NamedTuple):
    """Top-k rows of whole documents, in order."""

    values: NDArray[np.float32]
    indices: NDArray[np.int64]
    documents: NDArray[np.int64]
    errors: NDArray[np.float64]
    norms: NDArray[np.float64]

    def cut(self, start: int, stop: int) -> NightRows:
        return NightRows(*(column[start:stop] for column in self))


def random_rows(
    lengths: list[int], *, seed: int, num_latents: int = 6, k: int = 3, first: int = 0
) -> NightRows:
    """Documents of these lengths whose rows have up to k latents each."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    indices = np.argsort(rng.random((n, num_latents)), axis=1)[:, :k]
    values = np.exp2(rng.normal(size=(n, k))).astype(np.float32)
    values[rng.random((n, k)) < 0.5] = 0
    documents = first + np.repeat(np.arange(len(lengths)), lengths)
    norms = rng.exponential(16.0, size=n)
    return NightRows(values, indices, documents, norms * rng.random(n), norms)


def part_of(rows: NightRows, *, num_latents: int = 6, batch: int | None = None) -> NightPart:
    """The part that rows give, added in batches."""
    part = NightPart(num_latents, SCALES)
    step = batch or max(1, len(rows.values))
    for start in range(0, len(rows.values), step):
        values, indices, documents, errors, norms = rows.cut(start, start + step)
        part.add(values, indices, documents, errors=errors, norms=norms)
    return part


def same_arrays(left: dict[str, NDArray[Any]], right: dict[str, NDArray[Any]]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and np.array_equal(left[name], right[name])
        for name in left
    )


def night_of(
    counts: NDArray[Any],
    lengths: NDArray[Any],
    *,
    strengths: NDArray[Any] | None = None,
    ratios: NDArray[Any] | None = None,
) -> Totals:
    """A night from firings [documents, latents] and lengths [documents], one row a document.

    `strengths` are mean activations of the same shape in scales (1 by default), `ratios` the FVU
    of each document. What rows would add is put together without making them.
    """
    counts, lengths = np.asarray(counts, np.int64), np.asarray(lengths, np.int64)
    places, latents = np.nonzero(counts)
    firings = counts[places, latents]
    means = np.ones(len(firings)) if strengths is None else np.asarray(strengths)[places, latents]
    norms = lengths * NORM_STEPS if ratios is not None else np.zeros_like(lengths)
    errors = np.zeros_like(lengths) if ratios is None else np.rint(norms * ratios).astype(np.int64)
    offsets = np.searchsorted(places, np.arange(len(lengths) + 1)).astype(np.int64)
    steps = np.rint(firings * means * ACTIVATION_STEPS).astype(np.int64)
    made = Totals(counts.shape[1], SCALES)
    ids = np.arange(len(lengths))
    made.add(Documents(ids, lengths, errors, norms, offsets, latents, firings, steps))
    return made


def random_night(
    rng: np.random.Generator,
    documents: int,
    shares: NDArray[Any],
    *,
    firings: NDArray[Any] | float = 4.0,
    strength: NDArray[Any] | float = 1.0,
    fvu: float = 0.1,
    length: float = 1.0,
) -> Totals:
    """A night of one source: bursty latents, documents of very different lengths.

    `shares` [latents] of documents have a latent, which fires there about `firings` times with a
    heavy tail, with a mean activation of about `strength`; `length` stretches documents.
    """
    size = (documents, len(shares))
    lengths = np.ceil(length * np.exp(rng.normal(5.5, 0.8, documents))).astype(np.int64)
    bursts = np.ceil(np.asarray(firings) * rng.pareto(1.5, size))
    counts = np.where(rng.random(size) < shares, np.minimum(bursts, lengths[:, None]), 0)
    strengths = np.asarray(strength) * np.exp(rng.normal(0, 0.4, size))
    ratios = np.minimum(fvu * np.exp(rng.normal(0, 0.3, documents)), 1.0)
    return night_of(counts, lengths, strengths=strengths, ratios=ratios)


def reference_of(nights: list[Totals]) -> Reference:
    """The reference that has these nights."""
    made = Reference()
    for night in nights:
        made.add(night)
    return made
