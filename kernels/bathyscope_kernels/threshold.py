"""Threshold encode (JumpReLU): every pre-activation above the threshold of its latent.

Flow: rows x [rows, d], the encoder and a threshold per latent go in, a `Thresholded` comes out;
`l0` counts what is active. The threshold is trained through a band around it ("Jumping Ahead:
Improving Reconstruction Fidelity with JumpReLU Sparse Autoencoders", Rajamanoharan et al. 2024,
arXiv:2407.14435, sections 3 and 4 and the pseudo-code of its appendix).
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.encode import check_encoder
from bathyscope_kernels.ragged import from_positions, row_of
from bathyscope_kernels.ragged_products import by_latent, encoder_gradients, sum_by_latent
from bathyscope_kernels.score_blocks import Block, collect
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype


class Thresholded(NamedTuple):
    """The active latents of each row and those in the lower half of the band, as a `Ragged`."""

    values: Tensor
    """[nnz] float32 (float64 from float64 inputs); 0 where not active. Carries gradient."""
    indices: Tensor
    """[nnz] int32 latents, ascending within a row."""
    offsets: Tensor
    """[rows + 1] int64."""
    active: Tensor
    """[nnz] bool: above the threshold. A NaN counts as above."""


def threshold_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: Tensor,
    *,
    bandwidth: float = 0.0,
    row_sparse: bool = False,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> Thresholded:
    """Return pre * (pre > threshold) for pre = x @ W_enc^T + b_enc, where it can matter.

    Entries are all with pre > threshold - bandwidth / 2. With theta for the threshold, eps for the
    bandwidth and rect(u) = 1 for |u| < 1/2, else 0, the gradients are those of the paper:

        d value / d pre   = (pre > theta)
        d value / d theta = -(theta / eps) * rect((pre - theta) / eps)

    The first is carried on to x, W_enc and b_enc; with `row_sparse` that of W_enc is a coalesced
    torch.sparse_coo tensor of the latents that have an entry. There is no ReLU before the
    threshold; one would change nothing where threshold >= bandwidth / 2.

    x [rows, d], W_enc [latents, d], b_enc and threshold [latents] are float32, bfloat16 or float16
    in any mix, accumulated in float32; or all float64. There is no limit on the entries of a row:
    the result is as long as it is. At most `workspace_bytes` of temporaries are alive at a time,
    beside lists of that length. Raises ValueError for shapes, dtypes or devices that do not fit
    together, for a bandwidth that is negative or not finite, and for a threshold that asks for a
    gradient without a band.
    """
    check_encoder(x, W_enc, b_enc)
    _check_threshold(threshold, W_enc, b_enc)
    _check_bandwidth(threshold, bandwidth)
    arguments = (x, W_enc, b_enc, threshold, bandwidth, row_sparse, workspace_bytes)
    return Thresholded(*_Threshold.apply(*arguments))


def l0(encoded: Thresholded, threshold: Tensor, *, bandwidth: float) -> Tensor:
    """Return the number of active latents of each row, [rows], in the dtype of the values.

    Its gradient flows to the threshold alone: d l0 / d theta = -(1 / eps) * rect((pre - theta) /
    eps), summed over the entries of a latent. `threshold` and `bandwidth` are those of the encode.
    Raises ValueError as `threshold_encode` does for them.
    """
    _check_bandwidth(threshold, bandwidth)
    return _L0.apply(*encoded, threshold, bandwidth)


class _Threshold(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        threshold: Tensor,
        bandwidth: float,
        row_sparse: bool,
        workspace_bytes: int,
    ) -> tuple[Tensor, ...]:
        encoded = _encode(x, W_enc, b_enc, threshold, bandwidth, workspace_bytes)
        ctx.save_for_backward(x, W_enc, b_enc, threshold, *encoded)
        ctx.bandwidth, ctx.row_sparse = bandwidth, row_sparse
        ctx.workspace_bytes = workspace_bytes
        ctx.mark_non_differentiable(*encoded[1:])
        return tuple(encoded)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc, b_enc, threshold, *lists = ctx.saved_tensors
        encoded = Thresholded(*lists)
        grads = encoder_gradients(
            grad.masked_fill(~encoded.active, 0),
            encoded.indices,
            encoded.offsets,
            x=x,
            W_enc=W_enc,
            b_enc=b_enc,
            wanted=ctx.needs_input_grad[:3],
            row_sparse=ctx.row_sparse,
            workspace_bytes=ctx.workspace_bytes,
        )
        grad_threshold = None
        if ctx.needs_input_grad[3]:
            sums = _sum_in_band(grad, encoded, threshold, ctx.bandwidth)
            grad_threshold = (-threshold.to(sums.dtype) / ctx.bandwidth * sums).to(threshold.dtype)
        return *grads, grad_threshold, None, None, None


class _L0(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        indices: Tensor,
        offsets: Tensor,
        active: Tensor,
        threshold: Tensor,
        bandwidth: float,
    ) -> Tensor:
        ctx.save_for_backward(values, indices, offsets, active, threshold)
        ctx.bandwidth = bandwidth
        before = torch.nn.functional.pad(active.cumsum(0), (1, 0))
        return before[offsets].diff().to(values.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[4]:
            return (None,) * 6
        *lists, threshold = ctx.saved_tensors
        encoded = Thresholded(*lists)
        of_entries = grad[row_of(encoded.offsets)]
        sums = _sum_in_band(of_entries, encoded, threshold, ctx.bandwidth)
        grad_threshold = (-sums / ctx.bandwidth).to(threshold.dtype)
        return None, None, None, None, grad_threshold, None


def _encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: Tensor,
    bandwidth: float,
    workspace_bytes: int,
) -> Thresholded:
    threshold = threshold.to(accumulate_dtype(x=x, W_enc=W_enc, b_enc=b_enc))
    floor = threshold - bandwidth / 2

    def keep(block: Block) -> Tensor:
        return (block.scores <= floor[block.columns]).logical_not_()

    values, positions = collect(x, W_enc, b_enc, keep, workspace_bytes=workspace_bytes)
    found = from_positions(values, positions, num_rows=x.shape[0], num_columns=W_enc.shape[0])
    active = ~(values <= threshold[found.indices])
    return Thresholded(values.masked_fill(~active, 0), found.indices, found.offsets, active)


def _sum_in_band(grad: Tensor, encoded: Thresholded, threshold: Tensor, bandwidth: float) -> Tensor:
    """Return the sum of grad * rect((pre - theta) / eps) for each latent."""
    # An entry that is not active is in the lower half; the value of an active one is pre.
    ceiling = threshold.to(grad.dtype) + bandwidth / 2
    in_band = ~encoded.active | (encoded.values < ceiling[encoded.indices])
    lists = by_latent(encoded.indices, encoded.offsets, num_latents=threshold.numel())
    return sum_by_latent(grad.masked_fill(~in_band, 0), lists)


def _check_threshold(threshold: Tensor, W_enc: Tensor, b_enc: Tensor) -> None:
    if threshold.shape != b_enc.shape or threshold.device != b_enc.device:
        raise ValueError(
            f"got a threshold {list(threshold.shape)} on {threshold.device}, wanted "
            f"{list(b_enc.shape)} on {b_enc.device}: one number per latent, as b_enc has"
        )
    accumulate_dtype(W_enc=W_enc, b_enc=b_enc, threshold=threshold)


def _check_bandwidth(threshold: Tensor, bandwidth: float) -> None:
    if not (math.isfinite(bandwidth) and bandwidth >= 0):
        raise ValueError(
            f"got bandwidth = {bandwidth}, wanted a finite number >= 0: the width of the band "
            "around the threshold that trains it"
        )
    if bandwidth == 0 and threshold.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "got bandwidth = 0 and a threshold that asks for a gradient, which is zero without a "
            "band; give a bandwidth, or pass threshold.detach() or call under torch.no_grad()"
        )
