"""Chooses between gathering and matmul for products with a sparse [rows, latents] matrix, and says
once which path an operation takes.

Gathering costs k rows of memory traffic per row, a matmul costs all latents in arithmetic, so
`num_latents / k` decides alone. The three products are described in `sparse`; `subset` (int64
latents) says that the indices are positions in it and not latents.
"""

import functools
import importlib.util
import logging

import torch
from torch import Tensor

from bathyscope_kernels import dense, sparse
from bathyscope_kernels.cpu import sparse as cpu

MIN_LATENTS_PER_ACTIVE = 5.0
"""Below this many latents per active one, matmul wins.

Measured on the reference CPU (AVX2, one thread, float32, d 576) as the time of the three products
together, gathered / by matmul in ms: 2048 rows, k 32: 13.4 / 12.1 at 4 latents per active one,
13.4 / 17.0 at 6; 1024 rows, k 288: 86 / 63 at 4, 90 / 96 at 6.
"""


_log = logging.getLogger("bathyscope_kernels")


@functools.cache
def say_once(operation: str, path: str) -> None:
    """Log which path an operation takes and why, the first time that it does."""
    _log.info("%s: %s", operation, path)


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed; it is imported only when a kernel is launched."""
    return importlib.util.find_spec("triton") is not None


def on_gpu(*tensors: Tensor | None) -> bool:
    """Whether Triton kernels take the tensors: all on CUDA, none in float64, Triton there."""
    given = [t for t in tensors if t is not None]
    return all(t.is_cuda and t.dtype != torch.float64 for t in given) and has_triton()


def use_dense(num_latents: int, k: int) -> bool:
    """Return whether a matmul over `num_latents` is quicker than gathering k rows."""
    return num_latents < MIN_LATENTS_PER_ACTIVE * k


def gather_sum(
    coefficients: Tensor,
    indices: Tensor,
    *,
    matrix: Tensor,
    subset: Tensor | None = None,
    start: Tensor | None = None,
    workspace_bytes: int,
) -> Tensor:
    """Return start + S @ matrix[subset], [rows, d] in the dtype of `coefficients`."""
    num_latents = matrix.shape[0] if subset is None else subset.numel()
    if use_dense(num_latents, coefficients.shape[1]):
        sums = dense.gather_sum(
            coefficients, indices, matrix=matrix, subset=subset, workspace_bytes=workspace_bytes
        )
        return sums if start is None else sums.add_(start)
    if subset is not None:
        indices = subset[indices.to(torch.int64)]
    if on_gpu(coefficients, matrix, start):
        from bathyscope_kernels.gpu.decode import sparse_decode

        return sparse_decode(coefficients, indices, matrix, start).to(coefficients.dtype)
    if cpu.usable(coefficients, matrix, *([] if start is None else [start])):
        return cpu.gather_sum(coefficients, indices, matrix, start)
    sums = sparse.gather_sum(coefficients, indices, matrix=matrix, workspace_bytes=workspace_bytes)
    return sums if start is None else sums.add_(start)


def scatter_sum(
    coefficients: Tensor,
    indices: Tensor,
    *,
    vectors: Tensor,
    num_latents: int,
    subset: Tensor | None = None,
    workspace_bytes: int,
    out_dtype: torch.dtype,
) -> Tensor:
    """Return S^T @ vectors, [num_latents, d] in `out_dtype`; rows outside `subset` are zero."""
    inner = num_latents if subset is None else subset.numel()
    product = dense if use_dense(inner, coefficients.shape[1]) else sparse
    sums = product.scatter_sum(
        coefficients,
        indices,
        vectors=vectors,
        num_latents=inner,
        workspace_bytes=workspace_bytes,
        out_dtype=out_dtype,
    )
    if subset is None:
        return sums
    return sums.new_zeros(num_latents, vectors.shape[1]).index_copy_(0, subset, sums)


def sampled_dot(
    vectors: Tensor, indices: Tensor, *, matrix: Tensor, workspace_bytes: int
) -> Tensor:
    """Return vectors @ matrix^T at the given places, [rows, k] in the dtype of `vectors`."""
    product = dense if use_dense(matrix.shape[0], indices.shape[1]) else sparse
    return product.sampled_dot(vectors, indices, matrix=matrix, workspace_bytes=workspace_bytes)
