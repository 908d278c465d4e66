"""Adam over all rows of a matrix whose gradient is zero but for some rows, in one pass.

Flow: the parameter and its moments, the rows that have a gradient, and those gradients go in; the
parameter and the moments are updated in place. Each element is read and written once, at 28 bytes
of traffic. A row finds its gradient through a list of places, one int32 per row.

A program holds whole rows where they are to have unit norm afterwards, so that this costs no
second pass.
"""

import math

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

_MAX_ROW = 8192
"""Columns that a program holds to normalize its row at once; longer rows take another pass."""
_TILE = 1024
_TINY = tl.constexpr(1.17549435e-38)


@triton.jit(do_not_specialize=["num_listed"])
def _adam(  # type: ignore[no-untyped-def]
    parameter, exp_avg, exp_avg_sq, listed, gradient, num_listed, d,
    new1, beta2, new2, step_size, eps, to_unbiased,
    LAZY: tl.constexpr, NORMALIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = number < num_listed
    found = tl.load(listed + number, mask=real, other=-1).to(tl.int64)
    if LAZY:
        row, source = found, number
    else:
        row, source = number, found
    inside = real[:, None] & (column < d)[None, :]
    place = row[:, None] * d + column[None, :]
    has_gradient = inside & (source >= 0)[:, None]
    from_gradient = gradient + source[:, None] * d + column[None, :]
    # All loads come before the first store, which they would else have to wait for.
    grad = tl.load(from_gradient, mask=has_gradient, other=0.0).to(tl.float32)
    first = tl.load(exp_avg + place, mask=inside, other=0.0)
    second = tl.load(exp_avg_sq + place, mask=inside, other=0.0)
    new = tl.load(parameter + place, mask=inside, other=0.0)
    first += new1 * (grad - first)
    second = beta2 * second + new2 * grad * grad
    # Past the end of a row eps = 0 would make 0 / 0 of it, and NaN of the norm.
    scale = tl.where(inside, tl.sqrt_rn(second) * to_unbiased + eps, 1.0)
    new -= step_size * tl.div_rn(first, scale)
    if NORMALIZE:
        norm = tl.sqrt_rn(tl.sum(new * new, 1))
        # Rows of zeros have no direction.
        new *= tl.div_rn(1.0, tl.where(norm > _TINY, norm, 1.0))[:, None]
    tl.store(exp_avg + place, first, mask=inside)
    tl.store(exp_avg_sq + place, second, mask=inside)
    tl.store(parameter + place, new, mask=inside)


@triton.jit
def _to_unit_rows(  # type: ignore[no-untyped-def]
    parameter, listed, d, LAZY: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    if LAZY:
        row = tl.load(listed + row).to(tl.int64)
    squares = tl.zeros([BLOCK], tl.float32)
    for start in range(0, d, BLOCK):
        column = start + tl.arange(0, BLOCK)
        part = tl.load(parameter + row * d + column, mask=column < d, other=0.0)
        squares += part * part
    norm = tl.sqrt_rn(tl.sum(squares, 0))
    inverse = tl.div_rn(1.0, tl.where(norm > _TINY, norm, 1.0))
    for start in range(0, d, BLOCK):
        column = start + tl.arange(0, BLOCK)
        part = tl.load(parameter + row * d + column, mask=column < d, other=0.0)
        tl.store(parameter + row * d + column, part * inverse, mask=column < d)


@torch.no_grad()
def sparse_adam(
    parameter: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor,
    gradient: Tensor,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    lazy: bool = False,
    normalize: bool = False,
) -> None:
    """One Adam step in place: p -= lr m^ / (sqrt(v^) + eps) with bias-corrected moments.

    All rows move as with `torch.optim.Adam` and a dense gradient that is zero outside `rows`
    (Kingma and Ba 2015, arXiv:1412.6980). parameter, exp_avg and exp_avg_sq [n_rows, d] are
    float32 and contiguous, rows int64 [n] ascending and none twice, gradient [n, d] float32,
    bfloat16 or float16. `step` counts from 1.

    With `lazy` rows without a gradient are left alone, moments and all: quicker, and another
    optimiser. With `normalize` each row that was updated is set to unit norm; rows of zeros stay.
    The range of `rows` is the caller's matter. Raises ValueError for shapes, dtypes, devices or a
    step that do not fit.
    """
    state = {"parameter": parameter, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    _check(state, rows, gradient, step)
    n_rows, d = parameter.shape
    listed, num_listed = rows, rows.numel()
    if not lazy:
        listed = torch.full((n_rows,), -1, dtype=torch.int32, device=rows.device)
        listed[rows] = torch.arange(num_listed, dtype=torch.int32, device=rows.device)
        num_listed = n_rows
    if num_listed == 0 or d == 0:
        return
    at_once = normalize and d <= _MAX_ROW
    tile_rows, block = _tile(d, whole=at_once)
    with on_device(parameter):
        _adam[(triton.cdiv(num_listed, tile_rows), triton.cdiv(d, block))](
            *state.values(), listed, gradient.contiguous(), num_listed, d,
            1.0 - beta1, float(beta2), 1.0 - beta2, lr / (1.0 - beta1**step), float(eps),
            1.0 / math.sqrt(1.0 - beta2**step),
            LAZY=lazy, NORMALIZE=at_once, ROWS=tile_rows, BLOCK=block,
            num_warps=_warps(tile_rows * block),
        )  # fmt: skip
        if normalize and not at_once:
            _to_unit_rows[(num_listed,)](
                parameter, listed, d, LAZY=lazy, BLOCK=_MAX_ROW, num_warps=_warps(_MAX_ROW)
            )


def _tile(d: int, *, whole: bool) -> tuple[int, int]:
    """Return how many rows and columns a program takes: one row, or some short ones."""
    block = triton.next_power_of_2(d)
    if not whole:
        block = min(block, _TILE)
    return max(1, _TILE // block), int(block)


def _warps(elements: int) -> int:
    """Eight elements per thread, or sixteen in long rows: four arrays of them fit the registers."""
    return min(16, max(4, elements // 256))


def _check(state: dict[str, Tensor], rows: Tensor, gradient: Tensor, step: int) -> None:
    shape = state["parameter"].shape
    for name, tensor in state.items():
        if tensor.ndim != 2 or tensor.shape != shape:
            raise ValueError(
                f"got {name} {list(tensor.shape)} with parameter {list(shape)}, wanted [n_rows, d] "
                "for both"
            )
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError(
                f"got {name} of {tensor.dtype} with strides {tensor.stride()}, wanted contiguous "
                "torch.float32: it is updated in place, and less precision loses small updates"
            )
    if rows.dtype != torch.int64 or rows.ndim != 1 or gradient.shape != (len(rows), shape[1]):
        raise ValueError(
            f"got rows {list(rows.shape)} of {rows.dtype}, gradient {list(gradient.shape)}; wanted "
            f"rows [n] of torch.int64 and gradient [n, {shape[1]}]"
        )
    if gradient.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"got a gradient of {gradient.dtype}, wanted float32, bfloat16 or float16")
    if step < 1:
        raise ValueError(f"got step {step}, wanted 1 or more: it counts the steps from 1")
    check_device(*state.values(), rows, gradient)


def _configuration(d: int, *, lazy: bool, normalize: bool, gradient: str = "fp32") -> Configuration:
    rows, block = _tile(d, whole=normalize)
    scalars = ("new1", "beta2", "new2", "step_size", "eps", "to_unbiased")
    return Configuration(
        signature={
            "parameter": "*fp32:16", "exp_avg": "*fp32:16", "exp_avg_sq": "*fp32:16",
            "listed": "*i64:16" if lazy else "*i32:16", "gradient": f"*{gradient}:16",
            "num_listed": "i32", "d": "i32:16",
        } | dict.fromkeys(scalars, "fp32"),
        constexprs={"LAZY": lazy, "NORMALIZE": normalize, "ROWS": rows, "BLOCK": block},
        num_warps=_warps(rows * block),
    )  # fmt: skip


register(
    "adam",
    _adam,
    [
        _configuration(768, lazy=False, normalize=True),
        _configuration(64, lazy=False, normalize=True),
        _configuration(4096, lazy=False, normalize=True, gradient="bf16"),
        _configuration(8192, lazy=True, normalize=True),
        _configuration(4096, lazy=False, normalize=False),
    ],
)
register(
    "to_unit_rows",
    _to_unit_rows,
    [
        Configuration(
            signature={"parameter": "*fp32:16", "listed": "*i32:16", "d": "i32:16"},
            constexprs={"LAZY": False, "BLOCK": _MAX_ROW},
            num_warps=_warps(_MAX_ROW),
        )
    ],
)
