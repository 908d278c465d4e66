"""What an intervention does to values, whatever they are: latents, heads or a whole module.

Each change is a small frozen value. It gets values x [rows, ...] with the item and the position of
every row, and returns what takes their place. A change that returns x itself changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.errors import ConfigError

# Items of a batch that read a list of rows start far apart in it, so that they do not agree.
_STRIDE = 7919


class Rows(NamedTuple):
    """Where rows come from, both int64 [rows]."""

    items: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Zero:
    """x' = 0."""


@dataclass(frozen=True, eq=False)
class Mean:
    """x' = the mean over activations of the kind that the target reads."""

    activations: Tensor | None = None
    """[rows, d], or None: those of a run, which `with_reference` puts in place."""

    def __post_init__(self) -> None:
        _check_rows("mean", self.activations)


@dataclass(frozen=True, eq=False)
class Resample:
    """x' = what the target is in other activations, a row for each item and position.

    Activations [rows, d] are gone through in their order, shuffled first where a seed is given;
    [items, positions, d] stand for the same items and positions, as in activation patching. Both
    start again at their end. A position has the same row in every forward, so that a generation
    with a cache sees what one without sees.
    """

    activations: Tensor | None = None
    """None: those of a run, which `with_reference` puts in place."""
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_rows("resample", self.activations)


@dataclass(frozen=True)
class Clamp:
    """z' = value. For latents."""

    value: float

    def __post_init__(self) -> None:
        _check_number("clamp", self.value)


@dataclass(frozen=True)
class Scale:
    """x' = factor · x."""

    factor: float

    def __post_init__(self) -> None:
        _check_number("scale", self.factor)


@dataclass(frozen=True, eq=False)
class Steer:
    """x' = x + strength · direction.

    For latents the direction is the decoder row, and the strength is in units of the latent:
    z' = z + strength. Elsewhere a direction is wanted: [d] of a module, [head width] of heads.
    """

    strength: float
    direction: Tensor | None = None

    def __post_init__(self) -> None:
        _check_number("steer", self.strength)
        if self.direction is not None:
            if self.direction.ndim != 1:
                raise ConfigError(
                    f"The direction of a steering has the shape {list(self.direction.shape)}; "
                    "wanted one number for each dimension, [d]."
                )
            _check_finite("The direction of a steering", self.direction)


Change = Zero | Mean | Resample | Clamp | Scale | Steer


def applied(change: Change, x: Tensor, rows: Rows, reference: Tensor | None) -> Tensor:
    """What takes the place of x [rows, ...].

    `reference` are the values of the target in the activations of Mean and Resample: [n, ...] or
    [items, positions, ...].
    """
    match change:
        case Zero():
            return torch.zeros_like(x)
        case Clamp(value):
            return torch.full_like(x, value)
        case Scale(factor):
            return x * factor
        case Steer(strength, direction):
            return x + (strength if direction is None else strength * direction.to(x))
        case Mean():
            assert reference is not None
            return reference.reshape(-1, *x.shape[1:]).mean(0).to(x).expand_as(x)
        case Resample(_, seed):
            assert reference is not None
            return _resampled(reference, rows, seed, grid=reference.ndim > x.ndim).to(x)


def _resampled(reference: Tensor, rows: Rows, seed: int | None, *, grid: bool) -> Tensor:
    items, positions = rows.items.cpu(), rows.positions.cpu()
    if grid:
        chosen = reference[items % len(reference), positions % reference.shape[1]]
        return chosen
    order = torch.arange(len(reference))
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(reference), generator=generator)
    return reference[order[(positions + _STRIDE * items) % len(reference)].to(reference.device)]


def _check_number(what: str, value: float) -> None:
    if not math.isfinite(value):
        raise ConfigError(f"The value of {what} is {value}; a finite number is wanted.")


def _check_rows(what: str, activations: Tensor | None) -> None:
    if activations is None:
        return
    if activations.ndim not in (2, 3) or activations.numel() == 0:
        raise ConfigError(
            f"The activations to {what} from have the shape {list(activations.shape)}; wanted "
            "[rows, d] or [items, positions, d], at least one row."
        )
    _check_finite(f"The activations to {what} from", activations)


def _check_finite(what: str, tensor: Tensor) -> None:
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise ConfigError(f"{what}: {bad} of {tensor.numel()} values are NaN or infinite.")
