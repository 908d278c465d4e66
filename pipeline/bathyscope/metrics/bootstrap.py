"""Intervals from resampling whole documents.

Tokens of one document are not independent, so the document is the unit that is drawn. Columns of
per-document sums flow in; an interval flows out. Percentile method (Efron and Tibshirani 1993,
section 13.3): quantiles of the statistic over documents drawn with replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bathyscope.errors import NonFiniteError

Floats = NDArray[np.float64]
# Drawn documents per chunk: 32 MB of int64 indices and as much of counts.
_CHUNK_DRAWS = 1 << 22


class Interval(NamedTuple):
    """A statistic with its percentile interval over documents."""

    estimate: float
    """The statistic of all documents, each once."""
    low: float
    """Lower end; NaN where the note says why."""
    high: float
    """Upper end; NaN where the note says why."""
    level: float
    """Wanted coverage."""
    num_documents: int
    """Documents that were drawn from."""
    num_resamples: int
    """Resamples that were drawn."""
    note: str
    """Why the interval is missing or rests on fewer resamples; empty when there is nothing."""


def bootstrap_ratio(
    numerators: Floats, denominators: Floats, *, resamples: int, seed: int, level: float = 0.95
) -> Interval:
    """Return Σ numerators / Σ denominators over documents, with its interval.

    Both are float [documents]. A sum of denominators that is 0 makes that resample undefined;
    the note counts these.
    """
    numerators, denominators = np.asarray(numerators), np.asarray(denominators)
    if numerators.ndim != 1 or numerators.shape != denominators.shape:
        raise ValueError(
            f"numerators {numerators.shape} and denominators {denominators.shape}: wanted one "
            "number per document in both"
        )
    columns = np.stack([numerators, denominators], axis=1)
    return bootstrap_statistic(columns, _ratio, resamples=resamples, seed=seed, level=level)


def bootstrap_statistic(
    columns: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Return a statistic of summed columns, with its interval.

    `columns` is float [documents, c]; `statistic` maps sums [n, c] to values [n], row by row,
    with NaN where it is undefined. Same seed, same interval.
    Raises `ValueError` without documents and `NonFiniteError` for NaN or infinite columns.
    """
    columns = np.asarray(columns, dtype=np.float64)
    _check(columns, resamples=resamples, level=level)
    num_documents = len(columns)
    estimate = float(statistic(columns.sum(axis=0, keepdims=True))[0])
    nan = float("nan")
    if num_documents == 1:
        note = "one document: nothing to resample, so there is no interval"
        return Interval(estimate, nan, nan, level, 1, resamples, note)
    drawn = np.concatenate(
        [statistic(sums) for sums in _resampled_sums(columns, resamples=resamples, seed=seed)]
    )
    defined = drawn[np.isfinite(drawn)]
    missing = resamples - len(defined)
    note = f"the statistic is undefined in {missing} of {resamples} resamples" if missing else ""
    if len(defined) == 0:
        return Interval(estimate, nan, nan, level, num_documents, resamples, note)
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), level, num_documents, resamples, note)


def _resampled_sums(columns: Floats, *, resamples: int, seed: int) -> Iterator[Floats]:
    num_documents = len(columns)
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_DRAWS // num_documents)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(num_documents, size=(size, num_documents))
        # Multinomial counts turn the sum over drawn documents into one matrix product.
        drawn += np.arange(size)[:, None] * num_documents
        counts = np.bincount(drawn.ravel(), minlength=size * num_documents)
        yield counts.reshape(size, num_documents).astype(np.float64) @ columns


def _check(columns: Floats, *, resamples: int, level: float) -> None:
    if columns.ndim != 2 or len(columns) == 0:
        raise ValueError(
            f"columns are {columns.shape}: wanted [documents, columns] with at least one document"
        )
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"resamples {resamples} and level {level}: wanted at least 1 and between 0 and 1"
        )
    if not np.isfinite(columns).all():
        bad = int(np.argwhere(~np.isfinite(columns))[0][0])
        raise NonFiniteError(f"document number {bad} has a NaN or infinite sum: wanted finite sums")


def _ratio(sums: Floats) -> Floats:
    defined = sums[:, 1] != 0
    return np.where(defined, sums[:, 0] / np.where(defined, sums[:, 1], 1.0), np.nan)
