"""One way to ask for all selections among the scores x @ W^T + b: a policy says what to keep.

Flow: x [rows, d], W [columns, d], a bias or none and a policy go in, what the policy keeps comes
out. This file only forwards: each policy has an operation with the same arguments, whose docstring
says all about dtypes, memory and gradients. The [rows, columns] scores never exist as a whole.
"""

from dataclasses import dataclass
from typing import overload

from torch import Tensor

from bathyscope_kernels.auxk import auxk_encode
from bathyscope_kernels.batch_topk import batch_topk_encode
from bathyscope_kernels.edges import Edges, threshold_edges, topk_edges
from bathyscope_kernels.encode import Encoded, topk_encode
from bathyscope_kernels.ragged import Ragged
from bathyscope_kernels.threshold import Thresholded, threshold_encode
from bathyscope_kernels.workspace import WORKSPACE_BYTES


@dataclass(frozen=True)
class TopK:
    """The k largest positive scores of each row: `topk_encode`, or `auxk_encode` with a subset."""

    k: int


@dataclass(frozen=True)
class BatchTopK:
    """The k * rows largest positive scores of each run of rows: `batch_topk_encode`."""

    k: int
    group_rows: int


@dataclass(frozen=True, eq=False)
class Threshold:
    """The scores above the threshold of their column (JumpReLU): `threshold_encode`."""

    threshold: Tensor
    """[columns]."""
    bandwidth: float = 0.0


@dataclass(frozen=True)
class LargestEdges:
    """The k products of largest |value|, or value, of each row: `topk_edges`."""

    k: int
    magnitude: bool = True


@dataclass(frozen=True)
class EdgesAbove:
    """The products with |value|, or value, above one number: `threshold_edges`."""

    threshold: float
    magnitude: bool = True


Policy = TopK | BatchTopK | Threshold | LargestEdges | EdgesAbove


@overload
def gemm_select(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    policy: TopK,
    *,
    subset: Tensor | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Encoded: ...
@overload
def gemm_select(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    policy: BatchTopK | EdgesAbove,
    *,
    subset: Tensor | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Ragged: ...
@overload
def gemm_select(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    policy: Threshold,
    *,
    subset: Tensor | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Thresholded: ...
@overload
def gemm_select(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    policy: LargestEdges,
    *,
    subset: Tensor | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Edges: ...
def gemm_select(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    policy: Policy,
    *,
    subset: Tensor | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Encoded | Ragged | Thresholded | Edges:
    """Select among x @ W^T + b by a policy.

    | policy       | keeps                      | returns, order within a row        | ties        |
    | ------------ | -------------------------- | ---------------------------------- | ----------- |
    | TopK         | k largest > 0 per row      | Encoded [rows, k], best first      | column      |
    | BatchTopK    | k * rows largest > 0       | Ragged, by column                  | row, column |
    |              | of each run of group_rows  |                                    |             |
    | Threshold    | all > threshold[column]    | Thresholded, by column             | -           |
    |              | - bandwidth / 2            |                                    |             |
    | LargestEdges | k of largest abs, not 0    | Edges [rows, k], best first,       | column      |
    |              |                            | signed values                      |             |
    | - signed     | k largest, of any sign     | the same, count is k               | column      |
    | EdgesAbove   | all with abs > threshold   | Ragged, by column, signed values   | -           |
    | - signed     | all > threshold            | the same                           | -           |

    `signed` is magnitude=False. Ties: of equal scores the one with the smaller number named is
    kept and comes first. NaN counts as larger than +inf and above every threshold, so each policy
    keeps it, and it stays in the values. Slots of [rows, k] past the count hold value 0, index 0;
    entries of Threshold between threshold - bandwidth / 2 and threshold hold value 0.

    Encoders (the first three) need a bias b [columns] and carry gradients; edges are products
    without a bias, b is None, and carry none. `subset` (int64 columns, ascending) is for TopK
    alone; indices are then positions in it and k is capped by its size.

    Raises ValueError as the operations do, and for a bias or a subset that the policy does not
    take or lacks.
    """
    _check(b, policy, subset)
    if isinstance(policy, LargestEdges):
        return topk_edges(
            x, W, policy.k, magnitude=policy.magnitude, workspace_bytes=workspace_bytes
        )
    if isinstance(policy, EdgesAbove):
        return threshold_edges(
            x, W, policy.threshold, magnitude=policy.magnitude, workspace_bytes=workspace_bytes
        )
    assert b is not None
    if isinstance(policy, BatchTopK):
        return batch_topk_encode(
            x, W, b, policy.k, policy.group_rows, workspace_bytes=workspace_bytes
        )
    if isinstance(policy, Threshold):
        return threshold_encode(
            x, W, b, policy.threshold, bandwidth=policy.bandwidth, workspace_bytes=workspace_bytes
        )
    if subset is not None:
        return auxk_encode(x, W, b, policy.k, subset, workspace_bytes=workspace_bytes)
    return topk_encode(x, W, b, policy.k, workspace_bytes=workspace_bytes)


def _check(b: Tensor | None, policy: Policy, subset: Tensor | None) -> None:
    if not isinstance(policy, Policy):
        raise ValueError(
            f"gemm_select got the policy {policy!r}, wanted a TopK, BatchTopK, Threshold, "
            "LargestEdges or EdgesAbove"
        )
    name = type(policy).__name__
    if subset is not None and not isinstance(policy, TopK):
        raise ValueError(
            f"gemm_select got a subset with {name}, wanted one with TopK only; select among "
            "W[subset] and b[subset] instead"
        )
    is_edges = isinstance(policy, LargestEdges | EdgesAbove)
    if is_edges and b is not None:
        raise ValueError(
            f"gemm_select got a bias {list(b.shape)} with {name}, wanted None: edges are products "
            "without a bias"
        )
    if not is_edges and b is None:
        raise ValueError(
            f"gemm_select got no bias with {name}, wanted b [columns]; without one pass zeros"
        )
