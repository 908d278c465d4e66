"""Random rotations of a space of rows: one that keeps lengths, and one that keeps the covariance.

A dictionary that is turned knows as much of its space as before, but its latents no longer point
where the data has its own directions. Q is orthogonal, drawn evenly (Haar; Mezzadri 2007,
arXiv:math-ph/0609050). For rows with the covariance C

    T = C^½ Q C^-½,    T C Tᵀ = C

so that the turned rows have the covariance of the rows, and only what goes beyond it is lost.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bathyscope.metrics.finite import require_finite

_LEAST = 1e-8
"""Of the largest variance: smaller ones count as so large, or T would grow without bound."""


class Rotation(NamedTuple):
    """A map of a space on itself: y becomes `forward` y."""

    forward: Tensor
    """T [d, d], float64."""
    inverse: Tensor
    """T⁻¹."""


def random_rotation(width: int, *, seed: int) -> Rotation:
    """Q and Qᵀ [width, width]. Raises `ValueError` for a width below 1."""
    if width < 1:
        raise ValueError(f"width is {width}: wanted at least 1")
    drawn = np.random.default_rng(seed).standard_normal((width, width))
    q, r = np.linalg.qr(drawn)
    # The signs make the draw an even one: QR alone prefers some rotations.
    turn = torch.from_numpy(q * np.where(np.diag(r) < 0, -1.0, 1.0))
    return Rotation(turn, turn.T.contiguous())


def covariance_rotation(covariance: Tensor, *, seed: int) -> Rotation:
    """T and T⁻¹ for a covariance, or a multiple of one, [d, d] in any float dtype.

    Raises `ValueError` for no square matrix and one without variance, `NonFiniteError` for NaN.
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"the covariance is {list(covariance.shape)}: wanted a square matrix")
    require_finite("covariance", covariance)
    values, vectors = torch.linalg.eigh(covariance.double().cpu())
    if not float(values[-1]) > 0:
        raise ValueError("the covariance is zero: there is no variance to keep")
    root = values.clamp_min(_LEAST * float(values[-1])).sqrt()
    there = vectors * root @ vectors.T
    back = vectors / root @ vectors.T
    turn = random_rotation(len(values), seed=seed)
    return Rotation(there @ turn.forward @ back, there @ turn.inverse @ back)
