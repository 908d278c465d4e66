"""Edges between two sets of vectors: the strongest dot products of each target.

Flow: targets [n, d] and sources [m, d] go in; the k best of targets @ sources^T per target, or all
above a threshold, come out. Both are the selections of `topk` and `threshold` without a bias.
"""

import math

import torch
from torch import Tensor

from bathyscope_kernels.gpu.scores import Scores
from bathyscope_kernels.gpu.threshold import select_above
from bathyscope_kernels.gpu.topk import select_rows
from bathyscope_kernels.workspace import WORKSPACE_BYTES


@torch.no_grad()
def topk_edges(
    targets: Tensor,
    sources: Tensor,
    k: int,
    *,
    magnitude: bool = True,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k best of targets @ sources^T per target, without a gradient.

    values [n, k] float32, signed, best first; indices [n, k] int32; count [n] int32; zeros past the
    count. With `magnitude` the best are those of largest |value|, and a product of zero is no
    edge. Without it all signed values compete, and the count is k. Of equals the smaller source
    wins; NaN counts as largest.

    Dtypes, memory and precision are as in `bathyscope_kernels.gpu.topk.topk_encode`. Raises
    ValueError for inputs that do not fit together, and for k outside 1 .. m.
    """
    scores = Scores(targets, sources, None)
    if not 1 <= k <= scores.num_columns:
        raise ValueError(
            f"topk_edges got k = {k}, wanted 1 <= k <= {scores.num_columns}, the number of sources"
        )
    return select_rows(
        scores, k, positive=False, magnitude=magnitude, workspace_bytes=workspace_bytes
    )


@torch.no_grad()
def threshold_edges(
    targets: Tensor,
    sources: Tensor,
    threshold: float,
    *,
    magnitude: bool = True,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return all of targets @ sources^T with |value| > threshold, without a gradient.

    values [nnz] float32, signed; indices [nnz] int32, ascending within a target; offsets [n + 1]
    int64. Without `magnitude` the condition is value > threshold. A NaN counts as above. Dtypes,
    memory and precision are as in `bathyscope_kernels.gpu.threshold.threshold_encode`. Raises
    ValueError for inputs that do not fit together, for a NaN, and with `magnitude` for a threshold
    below 0.
    """
    if math.isnan(threshold) or (magnitude and threshold < 0):
        raise ValueError(
            f"threshold_edges got threshold = {threshold}, wanted a number"
            + (" >= 0, as magnitudes are" if magnitude else "")
        )
    scores = Scores(targets, sources, None)
    bound = torch.full((scores.num_rows,), threshold, dtype=torch.float32, device=targets.device)
    values, indices, offsets, _ = select_above(
        scores, bound, per_column=False, magnitude=magnitude, workspace_bytes=workspace_bytes
    )
    return values, indices, offsets
