"""How well estimated effects agree with true ones: correlation, rank correlation, recall.

    Pearson   Σ (a - ā)(b - b̄) / (|a - ā| |b - b̄|)
    Spearman  Pearson of the ranks, equals sharing their mean rank
    recall@k  share of the k largest |true| that are among the k largest |estimated|

A flipped sign shows in both correlations and not in recall. All are NaN where they are not
defined: fewer than two values, or all of them equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata


def pearson(true: ArrayLike, estimated: ArrayLike) -> float:
    """Pearson's correlation of two lists [n]. Raises ValueError for lists of other shapes."""
    a, b = _lists(true, estimated)
    if len(a) < 2:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else float("nan")


def spearman(true: ArrayLike, estimated: ArrayLike) -> float:
    """Spearman's rank correlation of two lists [n], with mean ranks for equals."""
    a, b = _lists(true, estimated)
    return pearson(rankdata(a), rankdata(b)) if len(a) else float("nan")


def topk_recall(true: ArrayLike, estimated: ArrayLike, k: int) -> float:
    """Share of the k largest |true| that the k largest |estimated| hold, k at most n.

    Of true values that equal the k-th, any counts. Of estimates that equal the k-th, the share
    that a random choice among them would find is counted, so that an estimate of all zeros does
    not find what stands first. NaN for empty lists. Raises ValueError for k under 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; wanted at least 1")
    a, b = (np.abs(values) for values in _lists(true, estimated))
    k = min(k, len(a))
    if k == 0:
        return float("nan")
    wanted = a >= np.sort(a)[-k]
    level = np.sort(b)[-k]
    above, level_with = b > level, b == level
    left = k - int(above.sum())
    hits = float(wanted[above].sum()) + left * float(wanted[level_with].mean())
    return min(hits, k) / k


def _lists(
    true: ArrayLike, estimated: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = (np.asarray(values, dtype=np.float64) for values in (true, estimated))
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"got {list(a.shape)} true and {list(b.shape)} estimated; wanted two [n]")
    return a, b
