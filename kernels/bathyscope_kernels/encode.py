"""TopK encode: pre-activations, ReLU and the exact k largest per row, with a sparse backward.

Flow: rows x [rows, d] and the encoder [latents, d] go in; values and indices [rows, k] come out.
The [rows, latents] pre-activations exist only a block at a time ("Scaling and evaluating sparse
autoencoders", Gao et al. 2024, arXiv:2406.04093, equation 3).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bathyscope_kernels import encode_torch
from bathyscope_kernels.cpu import encode as cpu
from bathyscope_kernels.dispatch import gather_sum, on_gpu, say_once, scatter_sum
from bathyscope_kernels.workspace import WORKSPACE_BYTES, accumulate_dtype


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
    return Encoded(*_encode(x, W_enc, b_enc, subset, k, workspace_bytes))


@torch.library.custom_op("bathyscope::topk_encode", mutates_args=())
def _encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    k: int,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return choose(x, W_enc, b_enc, subset, k, workspace_bytes)


@_encode.register_fake
def _(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    k: int,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.shape[0]
    dtype = accumulate_dtype(x=x, W_enc=W_enc, b_enc=b_enc)
    return (
        x.new_empty(rows, k, dtype=dtype),
        x.new_empty(rows, k, dtype=torch.int32),
        x.new_empty(rows, dtype=torch.int32),
    )


@torch.library.custom_op("bathyscope::topk_encode_backward", mutates_args=())
def _encode_backward(
    grad_values: Tensor,
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    values: Tensor,
    indices: Tensor,
    wanted: list[bool],
    workspace_bytes: int,
) -> list[Tensor]:
    # The ReLU's mask: a NaN lets its gradient through, as in torch.relu.
    grad = grad_values.masked_fill(values <= 0, 0)
    found = []
    if wanted[0]:
        dx = gather_sum(grad, indices, matrix=W_enc, subset=subset, workspace_bytes=workspace_bytes)
        found.append(dx.to(x.dtype))
    if wanted[1]:
        dW = scatter_sum(
            grad,
            indices,
            vectors=x,
            num_latents=W_enc.shape[0],
            subset=subset,
            workspace_bytes=workspace_bytes,
            out_dtype=W_enc.dtype,
        )
        found.append(dW)
    if wanted[2]:
        latents = indices.reshape(-1).to(torch.int64)
        if subset is not None:
            latents = subset[latents]
        sums = grad.new_zeros(b_enc.shape).index_add_(0, latents, grad.reshape(-1))
        found.append(sums.to(b_enc.dtype))
    return found


@_encode_backward.register_fake
def _(
    grad_values: Tensor,
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    values: Tensor,
    indices: Tensor,
    wanted: list[bool],
    workspace_bytes: int,
) -> list[Tensor]:
    inputs = (x, W_enc, b_enc)
    return [t.new_empty(t.shape) for t, want in zip(inputs, wanted, strict=True) if want]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, W_enc, b_enc, subset, _, ctx.workspace_bytes = inputs
    ctx.save_for_backward(x, W_enc, b_enc, subset, *output[:2])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad_values: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:3])
    found = iter(_encode_backward(grad_values, *ctx.saved_tensors, wanted, ctx.workspace_bytes))
    return *(next(found) if want else None for want in wanted), None, None, None


_encode.register_autograd(_backward, setup_context=_keep_for_backward)


def choose(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    subset: Tensor | None,
    k: int,
    workspace_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, indices and count, without gradient, by the quickest path that takes the tensors."""
    if on_gpu(x, W_enc, b_enc):
        from bathyscope_kernels.gpu import topk

        say_once("topk_encode", "Triton, matmul in chunks and a filter (tensors on a GPU)")
        return topk.topk_encode(x, W_enc, b_enc, k, subset=subset, workspace_bytes=workspace_bytes)
    reason = cpu.why_not(x, W_enc, b_enc)
    if reason:
        say_once("topk_encode", f"torch, blocks of scores and torch.topk ({reason})")
        return encode_torch.select(x, W_enc, b_enc, subset, k, workspace_bytes)
    num_latents, d = W_enc.shape
    rounded = subset is None and cpu.rounding_pays(x.shape[0], d, num_latents, k)
    scores = "bfloat16 scores, candidates again in float32" if rounded else "float32 scores"
    say_once("topk_encode", f"compiled C++, {scores} ({cpu.why_rounded(rounded)})")
    values, indices, count, undone = cpu.topk_encode(
        x.float().contiguous(), W_enc, b_enc.float().contiguous(), subset, k,
        workspace_bytes=workspace_bytes, rounded=rounded,
    )  # fmt: skip
    if len(undone) > 0:
        say_once("topk_encode", "torch for rows with ties, NaN or extremes beyond the margin")
        again = encode_torch.select(x[undone], W_enc, b_enc, subset, k, workspace_bytes)
        values[undone], indices[undone], count[undone] = again
    return values, indices, count
