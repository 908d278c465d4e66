"""BatchTopK encode: the largest pre-activations of a whole batch of rows, however they spread.

Flow: rows x [rows, d] and the encoder [latents, d] go in, a `Ragged` of active latents comes out
("BatchTopK Sparse Autoencoders", Bussmann et al. 2024, arXiv:2412.06410). Scores exist only a
block at a time. Once a batch has its number of candidates, the smallest of them is a lower bound
tau that later scores must reach, so nothing is lost by dropping the others at once; about as many
candidates come up again each time the number of scores seen doubles.
"""

from typing import Any

import torch
from torch import Tensor

from bathyscope_kernels.dispatch import on_gpu
from bathyscope_kernels.encode import check_encoder
from bathyscope_kernels.ragged import Ragged, from_positions
from bathyscope_kernels.ragged_backward import encoder_gradients
from bathyscope_kernels.score_blocks import TAKE_BYTES, orderable, pieces, score_blocks, take
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype, blocks

# `take` of a whole block, and the reduction of a list that grew by it.
_BYTES_PER_SCORE = TAKE_BYTES + 72


def batch_topk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int,
    group_rows: int,
    *,
    row_sparse: bool = False,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Ragged:
    """Return the k * rows largest of relu(x @ W_enc^T + b_enc) of each batch of rows.

    A batch is a run of `group_rows` consecutive rows; the last may be shorter and keeps k times
    its own rows. Only positive scores count, so a batch may keep fewer. Order of choice: larger
    value, then smaller row, then smaller latent; NaN counts as largest and stays in the values.

    x [rows, d], W_enc [latents, d] and b_enc [latents] are float32, bfloat16 or float16 in any
    mix, accumulated and returned in float32; or all float64. Gradients flow from the values to x,
    W_enc and b_enc as in dense autograd. With `row_sparse` that of W_enc is a coalesced
    torch.sparse_coo tensor of the latents that were kept somewhere; torch.compile cannot trace it.

    At most `workspace_bytes` of temporaries are alive at a time, beside lists of a few times
    k * rows entries. A batch is one pass over W_enc: for `group_rows` = 1 use `topk_encode`.
    Raises ValueError for shapes, dtypes or devices that do not fit together, for k outside
    1 .. latents and for group_rows < 1.
    """
    check_encoder(x, W_enc, b_enc)
    if not 1 <= k <= W_enc.shape[0]:
        raise ValueError(
            f"batch_topk_encode got k = {k}, wanted 1 <= k <= {W_enc.shape[0]}, the number of "
            "latents"
        )
    if group_rows < 1:
        raise ValueError(
            f"batch_topk_encode got group_rows = {group_rows}, wanted at least 1: the number of "
            "rows that share k * group_rows active latents"
        )
    encode = _RowSparse.apply if row_sparse else _encode
    return Ragged(*encode(x, W_enc, b_enc, k, group_rows, workspace_bytes))


@torch.library.custom_op("bathyscope::batch_topk_encode", mutates_args=())
def _encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, group_rows: int, workspace_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    return _select(x, W_enc, b_enc, k, group_rows, workspace_bytes)


@_encode.register_fake
def _(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, group_rows: int, workspace_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    nnz = torch.library.get_ctx().new_dynamic_size()
    return (
        x.new_empty(nnz, dtype=accumulate_dtype(x=x, W_enc=W_enc, b_enc=b_enc)),
        x.new_empty(nnz, dtype=torch.int32),
        x.new_empty(x.shape[0] + 1, dtype=torch.int64),
    )


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, W_enc, b_enc, *_, ctx.workspace_bytes = inputs
    ctx.save_for_backward(x, W_enc, b_enc, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(
    ctx: Any, grad: Tensor, *_: Any, row_sparse: bool = False
) -> tuple[Tensor | None, ...]:
    x, W_enc, b_enc, indices, offsets = ctx.saved_tensors
    grads = encoder_gradients(
        grad,
        indices,
        offsets,
        x=x,
        W_enc=W_enc,
        b_enc=b_enc,
        wanted=ctx.needs_input_grad[:3],
        row_sparse=row_sparse,
        workspace_bytes=ctx.workspace_bytes,
    )
    return *grads, None, None, None


_encode.register_autograd(_backward, setup_context=_keep_for_backward)


class _RowSparse(torch.autograd.Function):
    """The same outside of a custom operation: a traced one cannot have a sparse gradient."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(_select(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _keep_for_backward(ctx, inputs, output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad, row_sparse=True)


def _select(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, group_rows: int, workspace_bytes: int
) -> Ragged:
    if on_gpu(x, W_enc, b_enc):
        from bathyscope_kernels.gpu import batch_topk as gpu

        return Ragged(
            *gpu.batch_topk_encode(x, W_enc, b_enc, k, group_rows, workspace_bytes=workspace_bytes)
        )
    num_latents = W_enc.shape[0]
    values = [x.new_empty(0, dtype=accumulate_dtype(x=x, W_enc=W_enc, b_enc=b_enc))]
    positions = [x.new_empty(0, dtype=torch.int64)]
    for rows in blocks(x.shape[0], group_rows):
        wanted = k * (rows.stop - rows.start)
        found = _select_batch(x[rows], W_enc, b_enc, wanted, workspace_bytes)
        ascending, order = torch.sort(found[1])
        values.append(found[0][order])
        positions.append(ascending.add_(rows.start * num_latents))
    return from_positions(
        torch.cat(values), torch.cat(positions), num_rows=x.shape[0], num_columns=num_latents
    )


def _select_batch(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, wanted: int, workspace_bytes: int
) -> tuple[Tensor, Tensor]:
    """Return the values and positions of the `wanted` best positive scores, in no order."""
    found: list[tuple[Tensor, Tensor]] = []
    num_found, tau = 0, None
    half = workspace_bytes // 2
    dtype = accumulate_dtype(x=x, W_enc=W_enc, b_enc=b_enc)
    for block in score_blocks(
        x, W_enc, b_enc, bytes_per_score=dtype.itemsize, workspace_bytes=half
    ):
        for piece in pieces(block, bytes_per_score=_BYTES_PER_SCORE, workspace_bytes=half):
            found.append(take(piece, _reaches(piece.scores, tau), W_enc.shape[0]))
            num_found += found[-1][0].numel()
            if num_found > 2 * wanted:
                found = [_best(found, wanted)]
                num_found = wanted
                # One number read per doubling of the scores seen, not per block.
                tau = _smallest(found[0][0])
    return _best(found, wanted)


def _reaches(scores: Tensor, tau: float | None) -> Tensor:
    """Mark the scores that may be among the best.

    Equal to tau is enough: a later block may hold an earlier row. Negated comparisons let NaN
    through.
    """
    if tau is None:
        return (scores <= 0).logical_not_()
    return (scores < tau).logical_not_()


def _smallest(values: Tensor) -> float:
    # A minimum would turn any NaN into NaN. As +inf it stays above what is finite.
    return float(values.masked_fill(values.isnan(), torch.inf).amin())


def _best(found: list[tuple[Tensor, Tensor]], wanted: int) -> tuple[Tensor, Tensor]:
    """Reduce candidates to the `wanted` best, all if there are no more. Empties the list."""
    values = torch.cat([part[0] for part in found])
    positions = torch.cat([part[1] for part in found])
    found.clear()
    if values.numel() <= wanted:
        return values, positions
    order = orderable(values)
    tau = torch.kthvalue(order, order.numel() - wanted + 1).values
    kept, ties = order > tau, order == tau
    missing = wanted - int(kept.sum())
    tied = positions[ties]
    # Of those equal to tau the first ones by row, then latent, fill what is missing.
    last = torch.kthvalue(tied, missing).values
    kept |= ties & (positions <= last)
    return values[kept], positions[kept]
