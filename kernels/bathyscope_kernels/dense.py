"""Products with a [rows, latents] matrix of k nonzeros per row, by scatter and matmul.

The same three products as in `sparse`, for matrices so full that a matmul is quicker: some rows
of S are written out densely at a time, within the workspace. `subset` (int64 latents, or None for
all) says which rows of `matrix` the columns of S stand for.
"""

import torch
from torch import Tensor

from bathyscope_kernels.workspace import blocks, column_blocks


def gather_sum(
    coefficients: Tensor,
    indices: Tensor,
    *,
    matrix: Tensor,
    subset: Tensor | None,
    workspace_bytes: int,
) -> Tensor:
    """Return S @ matrix[subset], [rows, d] in the dtype of `coefficients`."""
    num_latents = matrix.shape[0] if subset is None else subset.numel()
    out = coefficients.new_empty(coefficients.shape[0], matrix.shape[1])
    half = workspace_bytes // 2
    for columns, part in column_blocks(
        matrix, coefficients.dtype, budget_bytes=half, subset=subset
    ):
        for rows in _row_blocks(coefficients, num_latents, half):
            scattered = _scatter(coefficients[rows], indices[rows], num_latents)
            torch.mm(scattered, part, out=out[rows, columns])
    return out


def scatter_sum(
    coefficients: Tensor,
    indices: Tensor,
    *,
    vectors: Tensor,
    num_latents: int,
    workspace_bytes: int,
    out_dtype: torch.dtype,
) -> Tensor:
    """Return S^T @ vectors, [num_latents, d] in `out_dtype`."""
    dtype = coefficients.dtype
    out = vectors.new_zeros(num_latents, vectors.shape[1], dtype=out_dtype)
    half = workspace_bytes // 2
    # In its own dtype the result is summed in place; else in a copy, some columns at a time.
    width = vectors.shape[1]
    if out_dtype != dtype:
        width = max(1, half // max(1, 2 * dtype.itemsize * num_latents))
    for columns in blocks(vectors.shape[1], max(1, width)):
        sums = out[:, columns].to(dtype)
        for rows in _row_blocks(coefficients, num_latents + 2 * vectors.shape[1], half):
            scattered = _scatter(coefficients[rows], indices[rows], num_latents)
            sums.addmm_(scattered.T, vectors[rows, columns].to(dtype))
        if out_dtype != dtype:
            out[:, columns] = sums
    return out


def sampled_dot(
    vectors: Tensor,
    indices: Tensor,
    *,
    matrix: Tensor,
    workspace_bytes: int,
) -> Tensor:
    """Return vectors @ matrix^T at the given places, [rows, k] in the dtype of `vectors`."""
    out = vectors.new_zeros(indices.shape)
    half = workspace_bytes // 2
    for columns, part in column_blocks(matrix, vectors.dtype, budget_bytes=half):
        for rows in _row_blocks(indices, matrix.shape[0], half):
            products = vectors[rows, columns] @ part.T
            out[rows] += products.gather(1, indices[rows].to(torch.int64))
    return out


def _row_blocks(per_row: Tensor, width: int, budget_bytes: int) -> list[slice]:
    # 8 bytes fit both accumulate dtypes and the int64 indices; k more for those indices.
    bytes_per_row = 8 * (width + per_row.shape[1])
    return list(blocks(per_row.shape[0], max(1, budget_bytes // bytes_per_row)))


def _scatter(coefficients: Tensor, indices: Tensor, num_latents: int) -> Tensor:
    scattered = coefficients.new_zeros(coefficients.shape[0], num_latents)
    # Adding, not writing: unused slots all hold index 0 and would wipe out latent 0.
    return scattered.scatter_add_(1, indices.to(torch.int64), coefficients)
