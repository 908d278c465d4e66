"""Which latents fire together more than a null model of firings has it: edges beyond the token.

Where firings are traded between rows of one current token, what is left of two latents firing
together is what the token alone makes of it. With c_b how often they do in cluster b of documents,
and c̃_b the mean of that over R traded copies,

    s_b = c_b - c̃_b,    S = Σ s_b,    t = S / √(B / (B - 1) · (Σ s_b² - S² / B))
    φ   = (S / N) / √(p_i (1 - p_i) p_j (1 - p_j))

as in `cofiring`, whose rule for edges is used on it. The error of the mean is in s_b, so that few
copies cost power and make nothing an edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from bathyscope.studies.cofiring import MIN_FIRINGS, MIN_TOGETHER, Columns, Tested, nearest
from bathyscope.studies.firings import Firings, keys_of, run_starts, spans
from bathyscope.studies.sparse_rows import Floats, Integers


def beyond(firings: Firings, copies: Sequence[Integers], neighbours: int) -> Tested:
    """Return the pairs that fire together more than in traded copies of latents [rows, slots].

    Of each latent the `neighbours` largest t. Raises `ValueError` without a copy.
    """
    if not copies:
        raise ValueError("no traded copy of the firings: wanted one at least")
    fired = firings.counts.sum(0)
    parts = list(_spans(firings, copies, fired)) if firings.num_clusters > 1 else []
    return nearest(parts, neighbours, fired, firings.num_clusters)


def _spans(firings: Firings, copies: Sequence[Integers], fired: Floats) -> Iterator[Columns]:
    others = [firings.with_latents(latents) for latents in copies]
    for start, stop in pairwise(spans(firings, len(others) + 1)):
        # The lowest bit says whether a firing is of a copy; real ones come first.
        real = keys_of(firings, start, stop) << 1
        traded = [(keys_of(other, start, stop) << 1) | 1 for other in others]
        keys = np.sort(np.concatenate([real, *traded]))
        if len(keys):
            yield _tested(keys, firings, fired, len(others))


def _tested(keys: Integers, firings: Firings, fired: Floats, num_copies: int) -> Columns:
    num, num_clusters = firings.num_rows, firings.num_clusters
    real = (keys & 1) == 0
    entry = run_starts(keys >> 1)
    pair = (keys[entry] >> 1).astype(np.int64) // num_clusters
    excess = np.add.reduceat(np.where(real, 1.0, -1 / num_copies), entry)
    starts = run_starts(pair)
    together = np.add.reduceat(np.add.reduceat(real.astype(np.float64), entry), starts)
    total, squares = np.add.reduceat(excess, starts), np.add.reduceat(excess**2, starts)
    left, right = np.divmod(pair[starts], firings.num_latents)
    often = np.minimum(fired[left], fired[right])
    some = (total > 0) & (together >= MIN_TOGETHER) & (often >= MIN_FIRINGS)
    p, q = fired[left] / num, fired[right] / num
    size = np.sqrt(p * (1 - p) * q * (1 - q))
    varied = squares - total**2 / num_clusters
    # A latent that fires in every row goes with no other; rounding is no variance.
    some &= (size > 0) & (varied > 1e-12 * squares)
    left, right, total = left[some], right[some], total[some]
    t = total / np.sqrt(varied[some] * num_clusters / (num_clusters - 1))
    return left, right, total / num / size[some], t
