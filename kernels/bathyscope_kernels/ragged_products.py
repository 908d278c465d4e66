"""Products with a ragged [rows, latents] matrix S, by gathering.

S is given as `coefficients`, `indices` (both [nnz]) and `offsets` [rows + 1], as in `Ragged`. The
products are those of `sparse`, for lists of different lengths. All are `embedding_bag` sums: they
add each sum in list order, hence repeatably, and keep no [nnz, d] temporary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.ragged import row_of
from bathyscope_kernels.workspace import column_blocks, is_usable

_SUM = 0


class ByLatent(NamedTuple):
    """The entries of a ragged matrix turned around: for each latent its rows, ascending."""

    latents: Tensor | None
    """[lists] int64: the latent of each list; None if every latent has one."""
    rows: Tensor
    """[nnz] int64."""
    order: Tensor
    """[nnz] int64: where each entry stood before."""
    offsets: Tensor
    """[lists + 1] int64."""


def by_latent(
    indices: Tensor, offsets: Tensor, *, num_latents: int, only_present: bool = False
) -> ByLatent:
    """Turn a ragged matrix around; with `only_present` latents without an entry get no list."""
    latents, order = torch.sort(indices.to(torch.int64), stable=True)
    counts = torch.bincount(latents, minlength=num_latents)
    present = None
    if only_present:
        present = counts.nonzero().squeeze(1)
        counts = counts[present]
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return ByLatent(present, row_of(offsets, order.numel())[order], order, starts)


def gather_sum(
    coefficients: Tensor,
    indices: Tensor,
    offsets: Tensor,
    *,
    matrix: Tensor,
    workspace_bytes: int,
) -> Tensor:
    """Return S @ matrix, [rows, d] in the dtype of `coefficients`; `matrix` is [latents, d]."""
    return _bag_sum(
        matrix,
        indices.to(torch.int64),
        offsets,
        coefficients,
        out_dtype=coefficients.dtype,
        workspace_bytes=workspace_bytes,
    )


def scatter_sum(
    coefficients: Tensor,
    lists: ByLatent,
    *,
    vectors: Tensor,
    workspace_bytes: int,
    out_dtype: torch.dtype,
) -> Tensor:
    """Return S^T @ vectors, [lists, d] in `out_dtype`; `vectors` is [rows, d].

    Sums are accumulated in the dtype of `coefficients`.
    """
    return _bag_sum(
        vectors,
        lists.rows,
        lists.offsets,
        coefficients[lists.order],
        out_dtype=out_dtype,
        workspace_bytes=workspace_bytes,
    )


def sum_by_latent(coefficients: Tensor, lists: ByLatent) -> Tensor:
    """Return the sum of the coefficients of each list, [lists], added in order."""
    # As rows of width 1: a sum with a fixed order on every device, which index_add_ is not.
    return _bag(coefficients[:, None], lists.order, lists.offsets, None).squeeze(1)


def sampled_dot(
    vectors: Tensor, indices: Tensor, offsets: Tensor, *, matrix: Tensor, workspace_bytes: int
) -> Tensor:
    """Return vectors[r] . matrix[latent] for each entry, [nnz] in the dtype of `vectors`."""
    flat, rows = indices.to(torch.int64), row_of(offsets, indices.numel())
    out = vectors.new_zeros(flat.shape)
    if flat.numel() == 0:
        return out
    for columns, part in column_blocks(matrix, vectors.dtype, budget_bytes=workspace_bytes):
        # The sampled product is what embedding_bag calls the gradient of its weights.
        out += torch.ops.aten._embedding_bag_per_sample_weights_backward(
            vectors[:, columns], part, flat, offsets[:-1], rows, _SUM
        )
    return out


def _bag_sum(
    matrix: Tensor,
    indices: Tensor,
    offsets: Tensor,
    weights: Tensor,
    *,
    out_dtype: torch.dtype,
    workspace_bytes: int,
) -> Tensor:
    """Sum weighted rows of `matrix` over each list: [lists, d] in `out_dtype`."""
    if out_dtype == weights.dtype and is_usable(matrix, out_dtype):
        return _bag(matrix, indices, offsets, weights)
    num_bags = offsets.numel() - 1
    out = matrix.new_zeros(num_bags, matrix.shape[1], dtype=out_dtype)
    # The sums of a block of columns exist twice while they are copied to their place.
    for columns, part in column_blocks(
        matrix, weights.dtype, budget_bytes=workspace_bytes, extra_rows=2 * num_bags
    ):
        out[:, columns] = _bag(part, indices, offsets, weights)
    return out


def _bag(matrix: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
    return torch.ops.aten._embedding_bag_forward_only(
        matrix, indices, offsets, False, _SUM, False, weights, True
    )[0]
