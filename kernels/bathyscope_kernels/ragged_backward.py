"""The backward pass of an encode with a ragged result: gradients of x, W_enc and b_enc.

Flow: the gradient of the pre-activations at the entries goes in, products with it come out.
BatchTopK and JumpReLU share it: they differ in which entries exist and which of them let gradient
through. Dense gradients are a torch custom operation, so that a tracer sees one node. A traced
operation cannot have a sparse output, so row-sparse gradients are computed outside of one.
"""

import torch
from torch import Tensor

from bathyscope_kernels.ragged_products import by_latent, gather_sum, scatter_sum, sum_by_latent


def encoder_gradients(
    grad: Tensor,
    indices: Tensor,
    offsets: Tensor,
    *,
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    wanted: tuple[bool, bool, bool],
    row_sparse: bool,
    workspace_bytes: int,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, W_enc and b_enc, those that are wanted.

    `grad` [nnz] is that of the pre-activations at the places of the ragged matrix, zero elsewhere.
    With `row_sparse` the gradient of W_enc is a coalesced torch.sparse_coo tensor of the rows of
    the latents that have an entry, so that the others cost nothing.
    """
    arguments = (grad, indices, offsets, x, W_enc, b_enc, list(wanted), workspace_bytes)
    found = iter(_compute(*arguments, row_sparse=True) if row_sparse else _gradients(*arguments))
    grad_x, grad_W, grad_b = (next(found) if want else None for want in wanted)
    return grad_x, grad_W, grad_b


@torch.library.custom_op("bathyscope::ragged_encoder_backward", mutates_args=())
def _gradients(
    grad: Tensor,
    indices: Tensor,
    offsets: Tensor,
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    wanted: list[bool],
    workspace_bytes: int,
) -> list[Tensor]:
    return _compute(grad, indices, offsets, x, W_enc, b_enc, wanted, workspace_bytes)


@_gradients.register_fake
def _(
    grad: Tensor,
    indices: Tensor,
    offsets: Tensor,
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    wanted: list[bool],
    workspace_bytes: int,
) -> list[Tensor]:
    inputs = (x, W_enc, b_enc)
    return [t.new_empty(t.shape) for t, want in zip(inputs, wanted, strict=True) if want]


def _compute(
    grad: Tensor,
    indices: Tensor,
    offsets: Tensor,
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    wanted: list[bool],
    workspace_bytes: int,
    *,
    row_sparse: bool = False,
) -> list[Tensor]:
    # The gradient of a plain sum is one number with stride 0, which a gather cannot walk.
    grad = grad.contiguous()
    found = []
    if wanted[0]:
        dx = gather_sum(grad, indices, offsets, matrix=W_enc, workspace_bytes=workspace_bytes)
        found.append(dx.to(x.dtype))
    if not (wanted[1] or wanted[2]):
        return found
    num_latents = W_enc.shape[0]
    lists = by_latent(indices, offsets, num_latents=num_latents, only_present=row_sparse)
    if wanted[1]:
        dW = scatter_sum(
            grad, lists, vectors=x, workspace_bytes=workspace_bytes, out_dtype=W_enc.dtype
        )
        found.append(as_rows(lists.latents, dW, num_latents))
    if wanted[2]:
        db = sum_by_latent(grad, lists).to(b_enc.dtype)
        if lists.latents is not None:
            db = db.new_zeros(num_latents).index_copy_(0, lists.latents, db)
        found.append(db)
    return found


def as_rows(latents: Tensor | None, rows: Tensor, num_latents: int) -> Tensor:
    """Return `rows` [listed, d] as a hybrid torch.sparse_coo tensor [num_latents, d].

    `latents` [listed] int64 is ascending; None means that all rows are there, returned as they are.
    """
    if latents is None:
        return rows
    return torch.sparse_coo_tensor(
        latents[None],
        rows,
        (num_latents, rows.shape[1]),
        is_coalesced=True,
        check_invariants=False,
    )
