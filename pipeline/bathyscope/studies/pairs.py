"""Overlaps that need pairs of directions: mean |cos| and the mean of row maxima.

A sample of rows is compared with all rows in blocks, so that memory does not grow with n.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.studies.unit_rows import UnitRows

# A block of cosines is at most so many rows and columns: 8 MB.
_SIDE = 1024


class Pairs(NamedTuple):
    """Averages over rows i; all but the last NaN where there is one row."""

    mean_abs: float
    """Σ_{i≠j} p_i p_j |cos_ij| / Σ_{i≠j} p_i p_j."""
    mean_max: float
    """Σ_i p_i max_{j≠i} |cos_ij|."""
    mean_abs_error: float
    """Standard error of the sample; 0 where all rows were compared."""
    mean_max_error: float
    num_compared: int


def compare_pairs(rows: UnitRows, *, sample_rows: int, seed: int) -> Pairs:
    """Compare at most `sample_rows` rows with all rows; n·sample_rows·width multiplications.

    Drawn evenly without replacement or, with weights, in proportion to them with replacement.
    """
    chosen, share = _sample(rows, sample_rows, seed)
    if len(rows.kept) < 2:
        return Pairs(math.nan, math.nan, math.nan, math.nan, len(chosen))
    sums, maxima = _compare(rows, chosen)
    others = 1 - rows.share[chosen]
    mean_abs = (share @ sums) / (share @ others)
    errors = (0.0, 0.0)
    if len(rows.kept) > sample_rows:
        root = math.sqrt(sample_rows)
        off = (sums - mean_abs * others) / others.mean()
        errors = (_deviation(off) / root, _deviation(maxima) / root)
    return Pairs(float(mean_abs), float(share @ maxima), *errors, len(chosen))


def _deviation(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else math.nan


def _sample(rows: UnitRows, sample_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which rows to compare with all others, and their shares of the mean."""
    kept = rows.kept
    if len(kept) <= sample_rows:
        return kept, rows.share[kept]
    generator = torch.Generator().manual_seed(seed)
    if rows.weighted:
        # By the distribution function: torch.multinomial stops at 2^24 rows.
        points = torch.rand(sample_rows, generator=generator, dtype=torch.float64)
        ends = rows.share[kept].cumsum(0)
        drawn = torch.searchsorted(ends, points.to(ends) * ends[-1], right=True)
    else:
        drawn = torch.randperm(len(kept), generator=generator)[:sample_rows].to(kept.device)
    chosen = kept[drawn.clamp(max=len(kept) - 1)]
    return chosen, torch.full_like(rows.share[chosen], 1 / sample_rows)


def _compare(rows: UnitRows, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_{j≠i} p_j |cos_ij| and max_{j≠i} |cos_ij| of each chosen row i."""
    sums = torch.zeros(len(chosen), dtype=torch.float64, device=chosen.device)
    maxima = torch.zeros_like(sums)
    for at in range(0, len(chosen), _SIDE):
        some = chosen[at : at + _SIDE]
        left = rows.unit(some)
        for start in range(0, len(rows.W), _SIDE):
            span = slice(start, min(start + _SIDE, len(rows.W)))
            overlap = (left @ rows.unit(span).T).abs_().clamp_(max=1)
            here = ((some >= start) & (some < span.stop)).nonzero()[:, 0]
            overlap[here, some[here] - start] = 0
            sums[at : at + _SIDE] += overlap @ rows.share[span]
            best = torch.maximum(maxima[at : at + _SIDE], overlap.amax(1))
            maxima[at : at + _SIDE] = best
    return sums, maxima
