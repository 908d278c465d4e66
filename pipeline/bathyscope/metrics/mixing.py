"""How well batches are mixed: two rows of a batch from one document, against chance.

    within a batch      C = Σ_d n_d (n_d - 1) / (B (B - 1))     n_d of its B rows are of document d
    by independent draw c = Σ_d N_d (N_d - 1) / (N (N - 1))     N_d of all N rows are of document d
    mixing              = mean over batches of C / c

1 is what drawing every row anew would give; a batch that is one document, out of D equal ones,
has a mixing near D.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer[Any]]


def same_label(labels: Labels) -> float:
    """The probability that two different entries of `labels` [n] are equal; NaN below two."""
    count = len(labels)
    if count < 2:
        return float("nan")
    _, sizes = np.unique(labels, return_counts=True)
    sizes = sizes.astype(np.float64)
    return float((sizes * (sizes - 1)).sum() / (count * (count - 1.0)))


def mixing(batches: Iterable[Labels], all_labels: Labels) -> float:
    """How often two rows of a batch share a document, against independent draws.

    `batches` hold the document of each row [B]; `all_labels` those of all rows [N]. NaN when no
    two rows share a document, or there is no batch of two rows.
    """
    chance = same_label(all_labels)
    found = [same_label(batch) for batch in batches]
    if not found or not chance > 0:
        return float("nan")
    return float(np.mean(found) / chance)
