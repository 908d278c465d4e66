"""The memory that an operation may use beside its inputs, outputs and gradients.

Every operation cuts its work into blocks so that its temporaries fit `WORKSPACE_BYTES`. Lists as
long as the output (rows times k indices and coefficients) come on top. Below a few kilobytes the
bound gives way: a block never has less than one row or one column.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

WORKSPACE_BYTES = 64 * 2**20
"""Bytes of temporaries that one call may hold at a time."""

_ACCUMULATED_IN_FP32 = (torch.float32, torch.bfloat16, torch.float16)


def accumulate_dtype(**tensors: Tensor) -> torch.dtype:
    """Return float32 for any mix of float32, bfloat16 and float16, float64 if all are float64.

    Raises ValueError for other dtypes, naming the tensors by their keywords.
    """
    dtypes = [tensor.dtype for tensor in tensors.values()]
    if all(dtype in _ACCUMULATED_IN_FP32 for dtype in dtypes):
        return torch.float32
    if all(dtype == torch.float64 for dtype in dtypes):
        return torch.float64
    got = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
    raise ValueError(
        f"got {got}; wanted float32, bfloat16 and float16 in any mix, or float64 for all of them; "
        "convert with .to(dtype)"
    )


def blocks(total: int, size: int) -> Iterator[slice]:
    """Cut range(total) into slices of `size`, the last one shorter."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def is_usable(matrix: Tensor, dtype: torch.dtype) -> bool:
    """Return whether `matrix` can be gathered from as it is: in `dtype`, unit stride in a row."""
    return matrix.dtype == dtype and matrix.stride(1) == 1


def column_blocks(
    matrix: Tensor,
    dtype: torch.dtype,
    *,
    budget_bytes: int,
    extra_rows: int = 0,
    subset: Tensor | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the columns of `matrix` [rows, columns] in `dtype`, with unit stride along a row.

    With `subset` (int64 row numbers) only those rows are taken. A matrix that is usable as it is
    comes back whole and uncopied, if `extra_rows` is 0; else columns are copied some at a time, so
    that a copy, plus `extra_rows` more rows that the caller makes of it, fits `budget_bytes`.
    """
    columns = matrix.shape[1]
    if subset is None and extra_rows == 0 and is_usable(matrix, dtype):
        yield slice(0, columns), matrix
        return
    rows = matrix.shape[0] if subset is None else subset.numel()
    # A subset of a low-precision matrix exists twice for a moment: gathered, then converted.
    bytes_per_column = dtype.itemsize * (2 * rows + extra_rows)
    for part in blocks(columns, max(1, budget_bytes // max(1, bytes_per_column))):
        taken = matrix[:, part]
        if subset is not None:
            taken = taken.index_select(0, subset)
        yield part, taken.to(dtype).contiguous()
