"""Scores x @ W^T in chunks: a matmul into one reused workspace, for a kernel that filters it.

Flow: `Scores` holds the operands and the workspace; the selections ask it for one block of rows
and one chunk of columns after the other, and read the chunk while it is in the L2 cache. The
chunk holds the products alone: the kernels add the bias as they read.

Products of bfloat16 or float16 with themselves come out of the matmul in float32, unrounded: of
rounded scores more than half of the rows have a tie in the last place (8192 rows, Gaussian). Other
mixes are converted to float32. Products of float32 follow
torch.backends.cuda.matmul.allow_tf32, which is off unless somebody asks for it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.gpu.runtime import check_device
from bathyscope_kernels.workspace import accumulate_dtype

MAX_WORKSPACE_BYTES = 256 * 2**20
"""More is never used, whatever a caller allows: it would only push the chunks out of the cache."""

_COLUMNS = 8192
_STEP = 128
_HALVES = (torch.bfloat16, torch.float16)


class Plan(NamedTuple):
    """How much is scored at a time."""

    num_rows: int
    num_columns: int


class Scores:
    """Rows x [rows, d] and columns W [columns, d] (those of `subset` if given), and a workspace.

    `b` is the bias [columns] or None, `subset` int64 row numbers of W. Raises ValueError for
    shapes, dtypes (float64 among them) and devices that do not fit together.
    """

    def __init__(
        self, x: Tensor, W: Tensor, b: Tensor | None, subset: Tensor | None = None
    ) -> None:
        _check(x, W, b, subset)
        self.x, self.W, self.subset = x, W, subset
        self.num_rows = x.shape[0]
        self.num_columns = W.shape[0] if subset is None else subset.numel()
        self.device = x.device
        self.bias: Tensor | None = None
        if b is not None:
            chosen = b if subset is None else b[subset]
            self.bias = chosen.to(torch.float32).contiguous()
        self._direct = x.is_cuda and x.dtype == W.dtype and x.dtype in _HALVES
        self._workspace = torch.empty(0, dtype=torch.float32, device=x.device)

    def plan(
        self, *, bytes_per_row: int, workspace_bytes: int, num_rows: int | None = None
    ) -> Plan:
        """Choose the size of a chunk and make the workspace.

        `bytes_per_row` is what the caller keeps for each row of a block, `num_rows` how many rows
        it wants at most. Chunks are wide enough for a quick matmul, and wider if all rows fit.
        """
        num_rows = self.num_rows if num_rows is None else num_rows
        budget = min(workspace_bytes, MAX_WORKSPACE_BYTES)
        d = self.W.shape[1]
        copied_W = 0 if self.subset is None else self.W.dtype.itemsize * d
        if not self._direct:
            copied_W += 0 if self.W.dtype == torch.float32 else 4 * d
            bytes_per_row += 0 if self.x.dtype == torch.float32 else 4 * d
        width = min(max(1, self.num_columns), _COLUMNS)
        if copied_W > 0:
            width = min(width, max(1, _stepped(budget // 2 // copied_W)))
        rows = (budget - copied_W * width) // (4 * width + bytes_per_row)
        rows = max(1, min(num_rows, _stepped(rows)))
        if rows == num_rows:
            fitting = (budget - rows * bytes_per_row) // (4 * rows + copied_W)
            width = min(self.num_columns, max(width, _stepped(fitting)))
        # First let go of the last one, so that there are never two.
        self._workspace = self._workspace[:0].clone()
        self._workspace = torch.empty(rows * width, dtype=torch.float32, device=self.device)
        return Plan(rows, width)

    def rows(self, rows: Tensor) -> "Scores":
        """Return the same for some of the rows (int64 indices)."""
        return Scores(self.x[rows], self.W, None, self.subset)._with_bias(self.bias)

    def chunk(self, rows: slice, columns: slice) -> Tensor:
        """Return [rows, columns] of x @ W^T in float32, contiguous; valid until the next chunk."""
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        out = self._workspace[: shape[0] * shape[1]].view(shape)
        left = self.x[rows]
        if self.subset is None:
            right = self.W[columns]
        else:
            right = self.W.index_select(0, self.subset[columns])
        if self._direct:
            torch.ops.aten.mm.dtype_out(left, right.T, torch.float32, out=out)
        else:
            torch.mm(left.to(torch.float32), right.to(torch.float32).T, out=out)
        return out

    def bias_of(self, columns: slice) -> Tensor | None:
        """Return the float32 bias of some columns."""
        return None if self.bias is None else self.bias[columns]

    def _with_bias(self, bias: Tensor | None) -> "Scores":
        self.bias = bias
        return self


def _stepped(size: int) -> int:
    """Round down to a multiple of what a tile of the matmul takes, where there is that much."""
    return size // _STEP * _STEP if size >= _STEP else size


def _check(x: Tensor, W: Tensor, b: Tensor | None, subset: Tensor | None) -> None:
    tensors = {"x": x, "W": W} | ({} if b is None else {"b": b})
    if x.ndim != 2 or W.ndim != 2 or x.shape[1] != W.shape[1]:
        raise ValueError(
            f"got rows {list(x.shape)} and columns {list(W.shape)}, wanted [rows, d] and "
            "[columns, d] of one d; rows of W_enc are latents"
        )
    if b is not None and b.shape != W.shape[:1]:
        raise ValueError(
            f"got a bias {list(b.shape)}, wanted [{W.shape[0]}], one number per column"
        )
    if accumulate_dtype(**tensors) != torch.float32:
        raise ValueError(
            "got float64, wanted float32, bfloat16 or float16: the GPU kernels select on float32 "
            "scores; use the function of the same name in bathyscope_kernels"
        )
    if subset is not None and (subset.dtype != torch.int64 or subset.ndim != 1):
        raise ValueError(
            f"got a subset {list(subset.shape)} of {subset.dtype}, wanted [size] of torch.int64; a "
            "mask becomes one by mask.nonzero().squeeze(1)"
        )
    check_device(*tensors.values(), *([] if subset is None else [subset]))
