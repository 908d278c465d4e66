"""How many dimensions a model's activations use, from the spectrum of their covariance.

With λ the eigenvalues of the covariance of rows (centred) and σ = √λ the singular values:

    participation ratio          (Σλ)² / Σλ²
    effective rank, eigenvalues  exp(H(λ/Σλ))     H(p) = -Σ p ln p
    effective rank, singular     exp(H(σ/Σσ))     as Roy and Vetterli (2007) define it
    stable rank                  Σλ / λ_max       = ‖A‖_F² / σ₁² of the centred rows A

All are d for isotropic rows and 1 for rows on a line, and do not change with the scale of the rows.
In between: stable rank ≤ participation ratio ≤ effective rank of eigenvalues ≤ that of singular
values. Sampling lowers all: the covariance of n rows has at most n - 1 eigenvalues that are not 0,
and the participation ratio of n isotropic Gaussian rows is near n·d/(n + d), so wanted are many
more rows than dimensions. A few dimensions of very large variance (attention sinks) take over all
four; leave such rows out before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from bathyscope.metrics.controls import SecondMoments
from bathyscope.metrics.finite import require_finite
from bathyscope.values import Json


@dataclass(frozen=True)
class Spectrum:
    """Dimensions in use, each also as a share of the width."""

    num_rows: int
    width: int
    participation_ratio: float
    effective_rank_eigenvalues: float
    effective_rank_singular_values: float
    """As Roy and Vetterli define it."""
    stable_rank: float
    numerical_rank: int
    """Eigenvalues above what float64 resolves, d·2.2e-16 of the largest; others count as 0."""

    def to_dict(self) -> Json:
        """The figures and, as `<name>_share`, each divided by the width."""
        figures = asdict(self)
        names = [name for name in figures if name not in ("num_rows", "width")]
        return figures | {f"{name}_share": figures[name] / self.width for name in names}


def spectrum(moments: SecondMoments) -> Spectrum:
    """Measure the covariance of the rows that were streamed; width³ work, on the CPU.

    Raises `ValueError` for fewer than two rows or rows that are all the same.
    """
    if moments.num_rows < 2:
        raise ValueError(f"{moments.num_rows} rows were seen: a covariance needs two")
    eigenvalues = torch.linalg.eigvalsh(moments.scatter / moments.num_rows)
    return of_eigenvalues(eigenvalues, num_rows=moments.num_rows)


def standard_errors(parts: Sequence[SecondMoments]) -> dict[str, float]:
    """Standard errors of the figures of `Spectrum` over parts of about equal size, by name.

    The jackknife that leaves out one part of G at a time (Efron and Tibshirani 1993, section 11):
    √((G-1)/G Σ (θ_g - θ̄)²). Parts must be independent: groups of whole documents, not of rows. G
    spectra, so width³·G work; 20 parts are enough. Raises `ValueError` for fewer than three parts.
    """
    if len(parts) < 3:
        raise ValueError(f"{len(parts)} parts: leaving out one at a time needs at least three")
    found = [spectrum(_merged([*parts[:g], *parts[g + 1 :]])).to_dict() for g in range(len(parts))]
    scale = (len(parts) - 1) / len(parts)
    errors = {}
    for name in found[0]:
        values = torch.tensor([one[name] for one in found], dtype=torch.float64)
        errors[name] = math.sqrt(scale * float((values - values.mean()).square().sum()))
    return {name: error for name, error in errors.items() if name not in ("num_rows", "width")}


def _merged(parts: Sequence[SecondMoments]) -> SecondMoments:
    whole = SecondMoments(parts[0].width)
    for part in parts:
        whole.merge(part)
    return whole


def of_eigenvalues(eigenvalues: Tensor, *, num_rows: int) -> Spectrum:
    """Measure a spectrum [d] in any order; those that rounding made negative count as 0.

    Raises `ValueError` where no eigenvalue is positive, `NonFiniteError` for NaN or infinity.
    """
    if eigenvalues.ndim != 1 or len(eigenvalues) == 0:
        raise ValueError(f"eigenvalues are {tuple(eigenvalues.shape)}: wanted [width]")
    require_finite("eigenvalues", eigenvalues)
    values, width = eigenvalues.to(torch.float64), len(eigenvalues)
    largest = float(values.max())
    if largest <= 0:
        raise ValueError("the variance of all rows is 0: they are the same, and have no spectrum")
    values = values[values > width * torch.finfo(torch.float64).eps * largest] / largest
    return Spectrum(
        num_rows=num_rows,
        width=width,
        participation_ratio=float(values.sum().square() / values.square().sum()),
        effective_rank_eigenvalues=_perplexity(values),
        effective_rank_singular_values=_perplexity(values.sqrt()),
        stable_rank=float(values.sum()),
        numerical_rank=len(values),
    )


def _perplexity(positive: Tensor) -> float:
    shares = positive / positive.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))
