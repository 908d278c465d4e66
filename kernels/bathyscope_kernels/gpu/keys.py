"""Entries and orders: what the selection kernels store for a score, and how they compare two.

Flow: the filter packs a score and its column into one int64 entry as they are, which costs next to
nothing per score; the few entries that are kept get their order, an int32 that compares like the
score, when they are selected. NaN of any sign has the largest order, -0.0 that of 0.0. With
`MAGNITUDE` the order is that of the absolute value, and the entry still knows the sign.

Order and column together are the order key of `bathyscope_kernels.keys`.
"""

import torch
from torch import Tensor

from bathyscope_kernels.gpu.runtime import tl, triton

LOWEST = tl.constexpr(-(2**31))
"""The order of nothing: below that of -inf."""
HIGHEST = tl.constexpr(2**31 - 1)
"""The order of NaN."""
_INFINITY = tl.constexpr(0x7F800000)


@triton.jit
def order_of(score, MAGNITUDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Map float32 to int32 that compares like the score, or like its magnitude."""
    # Adding 0.0 turns -0.0 into 0.0, which else would sort below it.
    bits = (score + 0.0).to(tl.int32, bitcast=True)
    magnitude = bits & HIGHEST
    if MAGNITUDE:
        order = magnitude
    else:
        order = bits ^ ((bits >> 31) & HIGHEST)
    return tl.where(magnitude > _INFINITY, HIGHEST, order)


@triton.jit
def score_of(order, MAGNITUDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the float32 score, or the magnitude, of an order; NaN for the largest."""
    if MAGNITUDE:
        bits = order
    else:
        bits = order ^ ((order >> 31) & HIGHEST)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def pack(score, column):  # type: ignore[no-untyped-def]
    """Put a float32 score and an int32 column into one int64 entry."""
    bits = score.to(tl.int32, bitcast=True)
    return (bits.to(tl.int64) << 32) | column.to(tl.int64)


@triton.jit
def score_in(entry):  # type: ignore[no-untyped-def]
    """Return the float32 score of an entry."""
    return (entry >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def column_in(entry):  # type: ignore[no-untyped-def]
    """Return the int32 column of an entry."""
    return entry.to(tl.int32)


def unpack_entries(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float32 scores and the int32 columns of int64 entries."""
    bits = (entries >> 32).to(torch.int32)
    return bits.view(torch.float32), (entries & 0x7FFFFFFF).to(torch.int32)
