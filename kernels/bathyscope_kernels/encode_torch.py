"""TopK encode in plain torch: blocks of scores, each selected from and merged.

The path for dtypes, devices and machines that nothing quicker takes. The [rows, latents]
pre-activations exist only a block at a time.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.select import best_of_block, choose_groups, finish, merge
from bathyscope_kernels.workspace import accumulate_dtype, blocks

# On a CPU with AVX2 and 32 MB of L3, blocks of 512 rows and 8192 latents make the matmul quicker
# than one call for all rows, and the scores are still in the cache when they are selected.
_MAX_ROWS = 512
_MAX_LATENTS = 8192
_MIN_LATENTS = 16


def select(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    k: int,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, indices and count of the k best of each row, inputs already checked."""
    dtype = accumulate_dtype(x=x, W_enc=W_enc, b_enc=b_enc)
    plan = _plan(x, W_enc, subset, k, workspace_bytes)
    values = x.new_empty(x.shape[0], k, dtype=dtype)
    indices = torch.empty(x.shape[0], k, dtype=torch.int32, device=x.device)
    count = torch.empty(x.shape[0], dtype=torch.int32, device=x.device)
    scores = x.new_empty(plan.num_rows, plan.padded_latents, dtype=dtype)
    for rows in blocks(x.shape[0], plan.num_rows):
        rows_x = x[rows].to(dtype)
        best: tuple[Tensor, Tensor] | None = None
        for latents in blocks(plan.total, plan.num_latents):
            filled = scores[: rows_x.shape[0]]
            num_block = latents.stop - latents.start
            _score(rows_x, W_enc, b_enc, subset, latents, filled)
            found = best_of_block(
                filled,
                num_latents=num_block,
                k=min(k, num_block),
                group_size=plan.group_size,
                workspace_bytes=workspace_bytes // 4,
            )
            found = (found[0], found[1] + latents.start)
            best = found if best is None else merge(best, found, k)
        assert best is not None
        values[rows], indices[rows], count[rows] = finish(*best)
    return values, indices, count


class _Plan(NamedTuple):
    """How much is scored at a time."""

    total: int
    num_rows: int
    num_latents: int
    padded_latents: int
    group_size: int


def _plan(x: Tensor, W_enc: Tensor, subset: Tensor | None, k: int, workspace_bytes: int) -> _Plan:
    """Cut rows and latents so that at most half of the workspace goes to copies of W_enc.

    A quarter is kept for rows that are selected again; scores and candidates get the rest.
    """
    dtype = accumulate_dtype(x=x, W_enc=W_enc)
    total = W_enc.shape[0] if subset is None else subset.numel()
    gathered = 0 if subset is None else W_enc.dtype.itemsize
    converted = 0 if W_enc.dtype == dtype else dtype.itemsize
    copied_bytes = W_enc.shape[1] * (gathered + converted)
    # 64 scores per latent leave room for about 64 rows or more.
    fitting = workspace_bytes // 2 // max(64 * dtype.itemsize, copied_bytes)
    widest = min(total, _MAX_LATENTS, max(_MIN_LATENTS, fitting))
    # Equal blocks: a short last one would cost as many calls as a full one.
    num_latents = -(-total // -(-total // widest))

    group_size, padded = choose_groups(num_latents, min(k, num_latents))
    candidates = group_size * (k + 1) if group_size > 1 else padded
    per_row = dtype.itemsize * (2 * padded + x.shape[1]) + 24 * candidates + 96 * (k + 1)
    left = workspace_bytes * 3 // 4 - copied_bytes * num_latents
    num_rows = max(1, min(_MAX_ROWS, x.shape[0], left // per_row))
    return _Plan(total, num_rows, num_latents, padded, group_size)


def _score(
    rows_x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    latents: slice,
    filled: Tensor,
) -> None:
    """Write the scores of some latents to the left of `filled` and -inf to the rest."""
    if subset is None:
        block_W, block_b = W_enc[latents], b_enc[latents]
    else:
        block_W, block_b = W_enc[subset[latents]], b_enc[subset[latents]]
    width = latents.stop - latents.start
    filled[:, width:] = -torch.inf
    # Converted here because a bfloat16 matmul rounds its scores, and crawls without AVX-512.
    dtype = filled.dtype
    torch.addmm(block_b.to(dtype), rows_x, block_W.to(dtype).T, out=filled[:, :width])
