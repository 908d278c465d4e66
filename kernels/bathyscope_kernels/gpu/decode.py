"""Sparse decode: each program sums k slices of decoder rows for one row, in list order.

Flow: values and indices of an encode and the decoder go in, the reconstruction comes out, or the
residual against a target together with its squared norm, which saves a pass over [rows, d_out].

The grid runs over all rows for one slice of columns before the next slice: while a slice of the
decoder fits the L2 cache, each of its rows comes from memory once, however many rows use it.
"""

import torch
from torch import Tensor

from bathyscope_kernels.gpu.runtime import (
    Configuration,
    check_device,
    on_device,
    register,
    tl,
    triton,
)
from bathyscope_kernels.workspace import accumulate_dtype

_SLICE_BYTES = 32 * 2**20
"""What a slice of the decoder may take of the L2 cache (50 MB on an H100, 60 on an H200)."""
_WIDTHS = (512, 256, 128)
_UNROLL = 8


@triton.jit(do_not_specialize=["num_rows"])
def _decode(  # type: ignore[no-untyped-def]
    values, indices, W_dec, b_dec, target, out, squares, num_rows, k, d,
    HAS_BIAS: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    piece = tl.program_id(1).to(tl.int64)
    column = piece * BLOCK + tl.arange(0, BLOCK)
    inside = column < d
    x_hat = tl.zeros([BLOCK], tl.float32)
    for first in range(0, k, UNROLL):
        # Unrolled, so that several gathers are on their way at a time.
        for step in tl.static_range(UNROLL):
            slot = first + step
            listed = slot < k
            value = tl.load(values + row * k + slot, mask=listed, other=0.0).to(tl.float32)
            latent = tl.load(indices + row * k + slot, mask=listed, other=0).to(tl.int64)
            # Unused slots hold 0 at index 0: nothing of row 0, even where it is infinite.
            wanted = column < tl.where(value != 0.0, d, 0)
            decoder = tl.load(W_dec + latent * d + column, mask=wanted, other=0.0)
            x_hat += value * decoder.to(tl.float32)
    if HAS_BIAS:
        x_hat += tl.load(b_dec + column, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL:
        wanted_row = tl.load(target + row * d + column, mask=inside, other=0.0).to(tl.float32)
        x_hat = wanted_row - x_hat
        tl.store(squares + piece * num_rows + row, tl.sum(x_hat * x_hat, 0))
    tl.store(out + row * d + column, x_hat, mask=inside)


@torch.no_grad()
def sparse_decode(
    values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor | None = None
) -> Tensor:
    """Return x_hat [rows, d_out]: x_hat[r] = sum_j values[r, j] * W_dec[indices[r, j]] + b_dec.

    values [rows, k], W_dec [latents, d_out] and b_dec [d_out] are float32, bfloat16 or float16 in
    any mix on one CUDA device, summed in list order and returned in float32. indices [rows, k] is
    int32 or int64, each from 0 to latents - 1: to check that would mean to wait for the device, so
    the caller answers for it. No gradient flows. Raises ValueError for shapes, dtypes or devices
    that do not fit together.
    """
    _check(values, indices, W_dec, b_dec)
    x_hat = torch.empty(values.shape[0], W_dec.shape[1], dtype=torch.float32, device=values.device)
    _launch(values, indices, W_dec, b_dec, None, x_hat, x_hat)
    return x_hat


@torch.no_grad()
def decode_residual(
    values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor | None, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Return target - x_hat [rows, d_out] and the sum of its squares per row [rows], in float32.

    target [rows, d_out] is of any dtype that `sparse_decode` takes, and all else is as there. Each
    slice of columns leaves its own sum of squares, and these are added in a fixed order: the same
    inputs give the same bits.
    """
    _check(values, indices, W_dec, b_dec, target)
    shape = (values.shape[0], W_dec.shape[1])
    residual = torch.empty(shape, dtype=torch.float32, device=values.device)
    slices = triton.cdiv(shape[1], slice_columns(W_dec))
    squares = torch.empty(slices, shape[0], dtype=torch.float32, device=values.device)
    _launch(values, indices, W_dec, b_dec, target, residual, squares)
    return residual, squares.sum(0)


def slice_columns(matrix: Tensor) -> int:
    """Return how many columns a slice has: as many as keep it in the L2 cache, where some do.

    Slices of less than 128 columns of bfloat16 would read less than memory hands out at a time.
    """
    rows, d = matrix.shape
    fitting = [width for width in _WIDTHS if rows * width * matrix.itemsize <= _SLICE_BYTES]
    # Where none fits there is little to keep, and wide gathers are the quicker ones.
    width = fitting[0] if fitting else _WIDTHS[0]
    return int(min(width, max(16, triton.next_power_of_2(d))))


def _launch(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None,
    target: Tensor | None,
    out: Tensor,
    squares: Tensor,
) -> None:
    if out.numel() == 0:
        return
    (rows, k), d = values.shape, W_dec.shape[1]
    W_dec, block = W_dec.contiguous(), slice_columns(W_dec)
    with on_device(out):
        _decode[(rows, triton.cdiv(d, block))](
            values.contiguous(), indices.contiguous(), W_dec,
            W_dec if b_dec is None else b_dec.contiguous(),
            W_dec if target is None else target.contiguous(),
            out, squares, rows, k, d,
            HAS_BIAS=b_dec is not None, RESIDUAL=target is not None, BLOCK=block,
            UNROLL=_UNROLL, num_warps=_warps(block),
        )  # fmt: skip


def _warps(block: int) -> int:
    """Eight columns per thread: gathers of 16 bytes from bfloat16, and two of them from float32."""
    return max(1, block // 256)


def _check(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None,
    target: Tensor | None = None,
) -> None:
    if values.ndim != 2 or values.shape != indices.shape or W_dec.ndim != 2:
        raise ValueError(
            f"got values {list(values.shape)}, indices {list(indices.shape)}, W_dec "
            f"{list(W_dec.shape)}; wanted values and indices [rows, k], W_dec [latents, d_out]"
        )
    wanted = {"b_dec": (b_dec, W_dec.shape[1:]), "target": (target, (len(values), W_dec.shape[1]))}
    given = {"values": values, "W_dec": W_dec}
    for name, (tensor, shape) in wanted.items():
        if tensor is None:
            continue
        if tensor.shape != torch.Size(shape):
            raise ValueError(
                f"got {name} {list(tensor.shape)}, wanted {list(shape)}; rows of W_dec "
                "are latents, transpose it if they are not"
            )
        given[name] = tensor
    if indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"got indices of {indices.dtype}, wanted torch.int32 or torch.int64")
    if accumulate_dtype(**given) != torch.float32:
        raise ValueError(
            "got float64, wanted float32, bfloat16 or float16: the GPU kernels sum in float32; "
            "use the function of the same name in bathyscope_kernels"
        )
    check_device(indices, *given.values())


def _configuration(W: str, block: int, *, bias: bool, residual: bool) -> Configuration:
    return Configuration(
        signature={
            "values": "*fp32:16", "indices": "*i32:16", "W_dec": f"*{W}:16", "b_dec": f"*{W}:16",
            "target": f"*{W}:16", "out": "*fp32:16", "squares": "*fp32:16", "num_rows": "i32",
            "k": "i32:16", "d": "i32:16",
        },
        constexprs={
            "HAS_BIAS": bias, "RESIDUAL": residual, "BLOCK": block, "UNROLL": _UNROLL,
        },
        num_warps=_warps(block),
    )  # fmt: skip


register(
    "decode",
    _decode,
    [
        _configuration("bf16", 128, bias=True, residual=False),
        _configuration("bf16", 512, bias=True, residual=True),
        _configuration("fp32", 256, bias=False, residual=False),
        _configuration("fp32", 512, bias=True, residual=True),
    ],
)
