"""Round-to-nearest quantisation of prunable weights, to 8 to 2 bits.

    symmetric    w ≈ q · step,            q in -(2^(b-1) - 1) … 2^(b-1) - 1,  step = max|w| / that
    asymmetric   w ≈ low + q · step,      q in 0 … 2^b - 1,   step = (max w - min w) / (2^b - 1)

with one step (and one low) for each block of `block` columns of a row, or for each row. These are
the numbers that are stored, so they are rounded to their own dtype before they are used, and
counted. Weights spread evenly over many steps have a mean squared error of step² / 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.errors import ConfigError, ModelError, NonFiniteError
from bathyscope.studies.grids import grid_reason
from bathyscope.studies.prunable import PrunableWeight

FEWEST_BITS, MOST_BITS = 2, 8


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded."""

    bits: int
    symmetric: bool = False
    block: int | None = 64
    """Columns that share a step; None for whole rows."""
    scale_dtype: torch.dtype = torch.float16
    """Of step and low. In float16, steps below 6e-8 become 0."""

    def __post_init__(self) -> None:
        if not FEWEST_BITS <= self.bits <= MOST_BITS:
            raise ConfigError(f"bits is {self.bits}; wanted {FEWEST_BITS} to {MOST_BITS}.")
        if self.block is not None and self.block < 1:
            raise ConfigError(f"block is {self.block} columns; wanted 1 or more, or None for rows.")


class Rounded(NamedTuple):
    """A matrix after rounding."""

    values: Tensor
    """[out, in], in the dtype of the matrix."""
    squared_error: float
    """Σ (rounded - weight)², of the values as they are in that dtype."""
    bits: int
    """That its integers and its steps take together."""


class Quantised(NamedTuple):
    """What was done to a model."""

    mse: float
    """Mean squared error over all entries of prunable weights."""
    relative_error: float
    """Σ (rounded - weight)² / Σ weight²."""
    bits_per_weight: float
    """Of prunable weights, steps and lows counted."""
    entries: int


def round_to_nearest(weight: Tensor, rounding: Rounding) -> Rounded:
    """Round a matrix [out, in]. Raises NonFiniteError for NaN and infinity in it."""
    if not bool(torch.isfinite(weight).all()):
        raise NonFiniteError("The matrix to round holds NaN or infinity. Is the checkpoint whole?")
    rows, columns = weight.shape
    size = min(rounding.block or columns, columns)
    whole = columns - columns % size
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    parts = [wide[:, :whole].reshape(-1, size), wide[:, whole:]]
    done = [_round_blocks(part, rounding) if part.numel() else part for part in parts]
    values = torch.cat([done[0].view(rows, whole), done[1]], dim=1).to(weight.dtype)
    error = float((values.double() - weight.double()).square().sum())
    blocks = rows * -(-columns // size)
    numbers = 1 if rounding.symmetric else 2
    bits = weight.numel() * rounding.bits + blocks * numbers * 8 * rounding.scale_dtype.itemsize
    return Rounded(values, error, bits)


def quantise(
    weights: Sequence[PrunableWeight], rounding: Rounding, *, check_grid: bool = True
) -> Quantised:
    """Round weights in place. Raises ModelError for those that lie on a coarse grid already.

    Put them back with `Snapshot`. With `check_grid=False` that was asked before.
    """
    reason = grid_reason(weights) if check_grid else None
    if reason is not None:
        raise ModelError(f"The model is left out of quantisation: {reason}.")
    error = energy = 0.0
    bits = entries = 0
    for weight in weights:
        matrix = weight.read()
        rounded = round_to_nearest(matrix, rounding)
        weight.write(rounded.values)
        error += rounded.squared_error
        energy += float(matrix.double().square().sum())
        bits += rounded.bits
        entries += matrix.numel()
    relative = error / energy if energy > 0 else float("nan")
    return Quantised(error / entries, relative, bits / entries, entries)


def _round_blocks(blocks: Tensor, rounding: Rounding) -> Tensor:
    """Round each row of [blocks, size] with a step of its own."""
    if rounding.symmetric:
        top = 2 ** (rounding.bits - 1) - 1
        low = torch.zeros_like(blocks[:, :1])
        step = _stored(blocks.abs().amax(1, keepdim=True) / top, rounding)
        bottom = -top
    else:
        bottom, top = 0, 2**rounding.bits - 1
        low = _stored(blocks.amin(1, keepdim=True), rounding)
        step = _stored((blocks.amax(1, keepdim=True) - low) / top, rounding)
    # A block of equal values has no step.
    divisor = torch.where(step > 0, step, torch.ones_like(step))
    return low + ((blocks - low) / divisor).round().clamp(bottom, top) * step


def _stored(numbers: Tensor, rounding: Rounding) -> Tensor:
    """As they are stored; a step larger than the dtype holds would be infinite."""
    stored = numbers.to(rounding.scale_dtype)
    if not bool(torch.isfinite(stored).all()):
        raise NonFiniteError(
            f"A block has a step or a lowest value of {float(numbers.abs().max()):g}, more than "
            f"{rounding.scale_dtype} holds. Take scale_dtype float32."
        )
    return stored.to(numbers.dtype)
