"""Threshold encode (JumpReLU): every pre-activation above the threshold of its latent.

Flow: rows x [rows, d], the encoder and a threshold per latent go in, a `Thresholded` comes out;
`l0` counts what is active. The threshold is trained through a band around it ("Jumping Ahead:
Improving Reconstruction Fidelity with JumpReLU Sparse Autoencoders", Rajamanoharan et al. 2024,
arXiv:2407.14435, sections 3 and 4 and the pseudo-code of its appendix).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels.band import band_sum, check_bandwidth
from bathyscope_kernels.cpu import encode as cpu
from bathyscope_kernels.cpu.above import encode_above
from bathyscope_kernels.dispatch import on_gpu, say_once
from bathyscope_kernels.encode import check_encoder
from bathyscope_kernels.ragged import from_positions, row_of
from bathyscope_kernels.ragged_backward import encoder_gradients
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
    torch.sparse_coo tensor of the latents that have an entry, and torch.compile cannot trace it.
    There is no ReLU before the threshold; one would change nothing where threshold >=
    bandwidth / 2.

    x [rows, d], W_enc [latents, d], b_enc and threshold [latents] are float32, bfloat16 or float16
    in any mix, accumulated in float32; or all float64. There is no limit on the entries of a row:
    the result is as long as it is. At most `workspace_bytes` of temporaries are alive at a time,
    beside lists of that length. Raises ValueError for shapes, dtypes or devices that do not fit
    together, for a bandwidth that is negative or not finite, and for a threshold that asks for a
    gradient without a band.
    """
    check_encoder(x, W_enc, b_enc)
    _check_threshold(threshold, W_enc, b_enc)
    check_bandwidth(threshold, bandwidth)
    encode = _RowSparse.apply if row_sparse else _encode
    return Thresholded(*encode(x, W_enc, b_enc, threshold, bandwidth, workspace_bytes))


def l0(encoded: Thresholded, threshold: Tensor, *, bandwidth: float) -> Tensor:
    """Return the number of active latents of each row, [rows], in the dtype of the values.

    Its gradient flows to the threshold alone: d l0 / d theta = -(1 / eps) * rect((pre - theta) /
    eps), summed over the entries of a latent. `threshold` and `bandwidth` are those of the encode.
    Raises ValueError as `threshold_encode` does for them.
    """
    check_bandwidth(threshold, bandwidth)
    return _l0(*encoded, threshold, bandwidth)


@torch.library.custom_op("bathyscope::threshold_encode", mutates_args=())
def _encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: Tensor,
    bandwidth: float,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _select(x, W_enc, b_enc, threshold, bandwidth, workspace_bytes)


@_encode.register_fake
def _(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: Tensor,
    bandwidth: float,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    nnz = torch.library.get_ctx().new_dynamic_size()
    return (
        x.new_empty(nnz, dtype=accumulate_dtype(x=x, W_enc=W_enc, b_enc=b_enc)),
        x.new_empty(nnz, dtype=torch.int32),
        x.new_empty(x.shape[0] + 1, dtype=torch.int64),
        x.new_empty(nnz, dtype=torch.bool),
    )


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.bandwidth, ctx.workspace_bytes = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(*output[1:])


def _backward(
    ctx: Any, grad: Tensor, *_: Any, row_sparse: bool = False
) -> tuple[Tensor | None, ...]:
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
        row_sparse=row_sparse,
        workspace_bytes=ctx.workspace_bytes,
    )
    grad_threshold = None
    if ctx.needs_input_grad[3]:
        sums = band_sum(grad, *encoded, threshold, ctx.bandwidth)
        grad_threshold = (-threshold.to(sums.dtype) / ctx.bandwidth * sums).to(threshold.dtype)
    return *grads, grad_threshold, None, None


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


@torch.library.custom_op("bathyscope::l0", mutates_args=())
def _l0(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    active: Tensor,
    threshold: Tensor,
    bandwidth: float,
) -> Tensor:
    before = torch.nn.functional.pad(active.cumsum(0), (1, 0))
    return before[offsets].diff().to(values.dtype)


@_l0.register_fake
def _(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    active: Tensor,
    threshold: Tensor,
    bandwidth: float,
) -> Tensor:
    return values.new_empty(offsets.shape[0] - 1)


def _keep_for_l0_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.bandwidth = inputs
    ctx.save_for_backward(*tensors)


def _l0_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if not ctx.needs_input_grad[4]:
        return (None,) * 6
    *lists, threshold = ctx.saved_tensors
    of_entries = grad[row_of(lists[2], lists[1].shape[0])]
    sums = band_sum(of_entries, *lists, threshold, ctx.bandwidth)
    return None, None, None, None, (-sums / ctx.bandwidth).to(threshold.dtype), None


_l0.register_autograd(_l0_backward, setup_context=_keep_for_l0_backward)


def _select(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: Tensor,
    bandwidth: float,
    workspace_bytes: int,
) -> Thresholded:
    if on_gpu(x, W_enc, b_enc, threshold):
        from bathyscope_kernels.gpu import threshold as gpu

        return Thresholded(
            *gpu.threshold_encode(
                x, W_enc, b_enc, threshold, bandwidth=bandwidth, workspace_bytes=workspace_bytes
            )
        )
    threshold = threshold.to(accumulate_dtype(x=x, W_enc=W_enc, b_enc=b_enc))
    floor = threshold - bandwidth / 2
    if not cpu.why_not(x, W_enc, b_enc):
        say_once("threshold_encode", "compiled C++")
        given = (x.float().contiguous(), W_enc, b_enc.float().contiguous(), floor.contiguous())
        values, indices, offsets = encode_above(*given, workspace_bytes=workspace_bytes)
        active = ~(values <= threshold[indices.long()])
        return Thresholded(values.masked_fill(~active, 0), indices, offsets, active)

    def keep(block: Block) -> Tensor:
        return (block.scores <= floor[block.columns]).logical_not_()

    values, positions = collect(x, W_enc, b_enc, keep, workspace_bytes=workspace_bytes)
    found = from_positions(values, positions, num_rows=x.shape[0], num_columns=W_enc.shape[0])
    active = ~(values <= threshold[found.indices])
    return Thresholded(values.masked_fill(~active, 0), found.indices, found.offsets, active)


def _check_threshold(threshold: Tensor, W_enc: Tensor, b_enc: Tensor) -> None:
    if threshold.shape != b_enc.shape or threshold.device != b_enc.device:
        raise ValueError(
            f"got a threshold {list(threshold.shape)} on {threshold.device}, wanted "
            f"{list(b_enc.shape)} on {b_enc.device}: one number per latent, as b_enc has"
        )
    accumulate_dtype(W_enc=W_enc, b_enc=b_enc, threshold=threshold)
