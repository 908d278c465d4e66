"""TopK encode: pre-activations, ReLU and the exact k largest per row, with a sparse backward.

Flow: rows x [rows, d] and the encoder [latents, d] go in; values and indices [rows, k] come out.
The [rows, latents] pre-activations exist only a block at a time ("Scaling and evaluating sparse
autoencoders", Gao et al. 2024, arXiv:2406.04093, equation 3).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.cpu import encode as cpu
from bathyscope_kernels.dispatch import gather_sum, scatter_sum
from bathyscope_kernels.select import best_of_block, choose_groups, finish, merge
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype, blocks

# On the reference CPU (AVX2, 32 MB of L3) blocks of 512 rows and 8192 latents make the matmul
# quicker than one call for all rows, and the scores are still in the cache when they are selected.
_MAX_ROWS = 512
_MAX_LATENTS = 8192
_MIN_LATENTS = 16


class Encoded(NamedTuple):
    """The active latents of each row, ordered by value descending, then by index."""

    values: Tensor
    """[rows, k] float32 (float64 from float64 inputs); 0 past the count. Carries gradient."""
    indices: Tensor
    """[rows, k] int32; 0 past the count."""
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody misses
    """[rows] int32: how many entries are above zero. A NaN counts as one."""


def topk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int,
    *,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Encoded:
    """Return the k largest of relu(x @ W_enc^T + b_enc) per row.

    x [rows, d], W_enc [latents, d] and b_enc [latents] are float32, bfloat16 or float16 in any
    mix, accumulated in float32; or all float64. Selection is exact on the accumulated scores: of
    equal scores the smaller index wins, and NaN counts as largest and stays in the values.

    Gradients flow from the values to x, W_enc and b_enc, each only if it asks for one, as in
    dense autograd: S^T x for W_enc, where S holds the gradient of the values at their places.

    At most `workspace_bytes` of temporaries are alive at a time, beside lists of rows * k
    entries. Raises ValueError for shapes, dtypes or devices that do not fit together, and for k
    outside 1 .. latents.
    """
    check_encoder(x, W_enc, b_enc)
    if not 1 <= k <= W_enc.shape[0]:
        raise ValueError(
            f"topk_encode got k = {k}, wanted 1 <= k <= {W_enc.shape[0]}, the number of latents"
        )
    return encode(x, W_enc, b_enc, None, k, workspace_bytes)


def check_encoder(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> None:
    """Raise ValueError unless the three tensors belong together."""
    if x.ndim != 2 or W_enc.ndim != 2 or b_enc.ndim != 1:
        raise ValueError(
            f"got x {list(x.shape)}, W_enc {list(W_enc.shape)}, b_enc {list(b_enc.shape)}; wanted "
            "x [rows, d], W_enc [latents, d], b_enc [latents]; flatten leading axes of x first"
        )
    if x.shape[1] != W_enc.shape[1] or W_enc.shape[0] != b_enc.shape[0]:
        raise ValueError(
            f"got x {list(x.shape)}, W_enc {list(W_enc.shape)}, b_enc {list(b_enc.shape)}; wanted "
            "one d in x and W_enc and one number of latents in W_enc and b_enc; rows of W_enc "
            "are latents, transpose it if they are not"
        )
    if not x.device == W_enc.device == b_enc.device:
        raise ValueError(
            f"got x on {x.device}, W_enc on {W_enc.device}, b_enc on {b_enc.device}; wanted one "
            "device; move them with .to(device)"
        )
    accumulate_dtype(x=x, W_enc=W_enc, b_enc=b_enc)


def encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    k: int,
    workspace_bytes: int,
) -> Encoded:
    """Encode among the latents of `subset` (all if None), inputs already checked."""
    return Encoded(*_Encode.apply(x, W_enc, b_enc, subset, k, workspace_bytes))


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        subset: Tensor | None,
        k: int,
        workspace_bytes: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        encoded = choose(x, W_enc, b_enc, subset, k, workspace_bytes)
        ctx.save_for_backward(x, W_enc, b_enc, subset, *encoded[:2])
        ctx.workspace_bytes = workspace_bytes
        ctx.mark_non_differentiable(*encoded[1:])
        return encoded

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_values: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc, b_enc, subset, values, indices = ctx.saved_tensors
        # The ReLU's mask: a NaN lets its gradient through, as in torch.relu.
        grad = grad_values.masked_fill(values <= 0, 0)
        workspace_bytes = ctx.workspace_bytes
        grad_x, grad_W, grad_b = None, None, None
        if ctx.needs_input_grad[0]:
            grad_x = gather_sum(
                grad, indices, matrix=W_enc, subset=subset, workspace_bytes=workspace_bytes
            ).to(x.dtype)
        if ctx.needs_input_grad[1]:
            grad_W = scatter_sum(
                grad,
                indices,
                vectors=x,
                num_latents=W_enc.shape[0],
                subset=subset,
                workspace_bytes=workspace_bytes,
                out_dtype=W_enc.dtype,
            )
        if ctx.needs_input_grad[2]:
            latents = indices.reshape(-1).to(torch.int64)
            if subset is not None:
                latents = subset[latents]
            sums = grad.new_zeros(b_enc.shape)
            grad_b = sums.index_add_(0, latents, grad.reshape(-1)).to(b_enc.dtype)
        return grad_x, grad_W, grad_b, None, None, None


def choose(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    k: int,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, indices and count, without gradient, by the quickest path that takes the tensors."""
    if not cpu.usable(x, W_enc, b_enc):
        return _select(x, W_enc, b_enc, subset, k, workspace_bytes)
    num_latents, d = W_enc.shape
    rounded = subset is None and cpu.rounding_pays(x.shape[0], d, num_latents, k)
    values, indices, count, undone = cpu.topk_encode(
        x.float().contiguous(), W_enc, b_enc.float().contiguous(), subset, k,
        workspace_bytes=workspace_bytes, rounded=rounded,
    )  # fmt: skip
    if len(undone) > 0:
        again = _select(x[undone], W_enc, b_enc, subset, k, workspace_bytes)
        values[undone], indices[undone], count[undone] = again
    return values, indices, count


def _select(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    k: int,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
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
