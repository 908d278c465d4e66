"""Products with a [rows, latents] matrix of k nonzeros per row, by gathering.

The matrix S is given as `coefficients` and `indices`, both [rows, k]: S[r, indices[r, j]] is
coefficients[r, j]. The three products are those of decode and encode and of their backward passes;
`dense` has the same three by scatter and matmul, and `dispatch` chooses.

All are `embedding_bag` sums. They keep no [rows, k, d] temporary and add each sum in list order,
hence repeatably. Measured (4096 rows, d 576, 4608 latents, k 32, AVX2, one thread, float32) in
ms: S @ matrix 6.3 against 14.1 as a CSR matmul; S^T @ vectors 6.9 against 15.1 as CSR and 28.5
with `index_add_`; the sampled dots 14.2 against 160.6 by gather and bmm.
"""

import torch
from torch import Tensor

from bathyscope_kernels.workspace import column_blocks, is_usable

_SUM = 0


def gather_sum(
    coefficients: Tensor, indices: Tensor, *, matrix: Tensor, workspace_bytes: int
) -> Tensor:
    """Return S @ matrix: row r is the sum over j of coefficients[r, j] * matrix[indices[r, j]].

    `matrix` is [latents, d]; the result is [rows, d] in the dtype of `coefficients`.
    """
    rows, k = coefficients.shape
    offsets = torch.arange(0, rows * k + 1, k, device=indices.device)
    lists = (indices.reshape(-1).to(torch.int64), offsets, coefficients.reshape(-1))
    return _bag_sum(matrix, lists, dtype=coefficients.dtype, workspace_bytes=workspace_bytes)


def scatter_sum(
    coefficients: Tensor,
    indices: Tensor,
    *,
    vectors: Tensor,
    num_latents: int,
    workspace_bytes: int,
    out_dtype: torch.dtype,
) -> Tensor:
    """Return S^T @ vectors: row f is the sum of coefficients * vectors[r] over the rows r with f.

    `vectors` is [rows, d]; the result is [num_latents, d] in `out_dtype`, accumulated in the
    dtype of `coefficients`. Zero coefficients are left out, so an infinite vector does not turn
    the latent of an unused slot into NaN.
    """
    lists = _rows_by_latent(coefficients, indices, num_latents=num_latents)
    return _bag_sum(vectors, lists, dtype=out_dtype, workspace_bytes=workspace_bytes)


def sampled_dot(
    vectors: Tensor, indices: Tensor, *, matrix: Tensor, workspace_bytes: int
) -> Tensor:
    """Return vectors @ matrix^T at the given places: [r, j] is vectors[r] . matrix[indices[r, j]].

    `vectors` is [rows, d], `matrix` [latents, d]; the result is [rows, k] in the dtype of
    `vectors`.
    """
    rows, k = indices.shape
    flat = indices.reshape(-1).to(torch.int64)
    row_of = torch.arange(rows, device=indices.device).repeat_interleave(k)
    offsets = torch.arange(0, rows * k, max(1, k), device=indices.device)
    out = vectors.new_zeros(rows, k)
    for columns, part in column_blocks(matrix, vectors.dtype, budget_bytes=workspace_bytes):
        # The sampled product is what embedding_bag calls the gradient of its weights.
        dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            vectors[:, columns], part, flat, offsets, row_of, _SUM
        )
        out += dots.view(rows, k)
    return out


def _rows_by_latent(
    coefficients: Tensor, indices: Tensor, *, num_latents: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the lists around: for each latent its rows in ascending order, and the coefficients."""
    flat = coefficients.reshape(-1)
    latent_of = indices.reshape(-1).to(torch.int64)
    used = flat != 0
    # Unused slots get a latent past the last one: they sort to the end and are cut off there.
    latent_of = latent_of.masked_fill(~used, num_latents)
    latent_of, order = torch.sort(latent_of, stable=True)
    order = order[: int(used.sum())]
    counts = torch.bincount(latent_of, minlength=num_latents + 1)[:num_latents]
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return order // coefficients.shape[1], offsets, flat[order]


def _bag_sum(
    matrix: Tensor,
    lists: tuple[Tensor, Tensor, Tensor],
    *,
    dtype: torch.dtype,
    workspace_bytes: int,
) -> Tensor:
    """Sum weighted rows of `matrix` over each list: [lists, d] in `dtype`."""
    weights = lists[2]
    if dtype == weights.dtype and is_usable(matrix, dtype):
        return _bag(matrix, lists)
    num_bags = lists[1].numel() - 1
    out = matrix.new_zeros(num_bags, matrix.shape[1], dtype=dtype)
    # The sums of a block of columns exist twice while they are copied to their place.
    for columns, part in column_blocks(
        matrix, weights.dtype, budget_bytes=workspace_bytes, extra_rows=2 * num_bags
    ):
        out[:, columns] = _bag(part, lists)
    return out


def _bag(matrix: Tensor, lists: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    indices, offsets, weights = lists
    return torch.ops.aten._embedding_bag_forward_only(
        matrix, indices, offsets, False, _SUM, False, weights, True
    )[0]
