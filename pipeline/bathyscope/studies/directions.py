"""How much a set of directions shares its dimensions: superposition, from the weights alone.

Rows W_i of a matrix [n, d] (decoder rows, unembedding rows), Ŵ_i = W_i/‖W_i‖. Of Elhage et al.
2022 ("Toy Models of Superposition", arXiv:2209.10652):

    feature dimensionality   D_i = ‖W_i‖² / Σ_j (Ŵ_i·W_j)²
    interference             Σ_{j≠i} (Ŵ_i·W_j)²
    dimensions per feature   d / ‖W‖_F²

D_i is 1 for a row with its dimension to itself, 1/2 in an antipodal pair. By Cauchy and Schwarz
D_i is at most the leverage score of row i, so Σ D_i is at most the rank of W. Of Liu, Liu and Gore
2025 (arXiv:2505.10465), who find about 1/d under strong superposition:

    mean squared overlap     E_{i≠j} cos²(W_i, W_j)

None of these needs an n x n matrix, for Σ_j (Ŵ_i·W_j)² = Ŵ_iᵀ(WᵀW)Ŵ_i and
Σ_ij p_i p_j cos²_ij = ‖Σ_i p_i Ŵ_i Ŵ_iᵀ‖_F²: two passes over the rows and a [d, d] matrix give
them exactly. Mean |cos| and the mean of row maxima do need pairs; they go block by block, over a
seeded sample of rows against all rows where n is large. All sums are float64, so differences
smaller than about 1e-16 of a row's total are lost: an interference of 0 may come out as 1e-16.

Rows are taken as they are. Where they share a direction, it counts as overlap of every pair, and
`common_direction` tells how much: of the mean squared overlap, about its square. Subtract the mean
first to leave it out; for unembedding rows that changes no output, as softmax does not see it. It
matters: overlap times width of SmolLM2-135M's unembedding is 124 as it is and 6.1 without the mean.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.studies import random_directions
from bathyscope.studies.pairs import compare_pairs
from bathyscope.studies.unit_rows import UnitRows
from bathyscope.values import Json

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class FeatureDimensions(NamedTuple):
    """What each row has to itself, float64 [n]; NaN for zero rows."""

    dimensionality: Tensor
    interference: Tensor


@dataclass(frozen=True)
class Directions:
    """Superposition of the rows of one matrix, with what random rows of its size would show.

    Averages over rows and pairs are weighted where weights were given (`weighted`); sums,
    quantiles and the random and Welch values are not.
    """

    num_rows: int
    """Rows that count, n; the two kinds below are left out of everything."""
    num_zero_rows: int
    num_unused_rows: int
    """Rows of weight 0 that are not zero themselves."""
    width: int
    weighted: bool
    frobenius_squared: float
    dimensions_per_feature: float
    """d/‖W‖_F²; it depends on the scale of W, so it is for rows of about unit length."""
    dimensionality_mean: float
    dimensionality_sum: float
    """At most the rank of W, and equal to it for a tight frame."""
    dimensionality_quantiles: tuple[float, ...]
    """At `QUANTILES`."""
    interference_mean: float
    common_direction: float
    """‖E Ŵ_i‖², the mean of cos over pairs: 1 where all rows point one way, about 1/n at random."""
    mean_squared_overlap: float
    """Exact; NaN for one row, as are the three below."""
    overlap_times_width: float
    mean_abs_overlap: float
    mean_row_max: float
    """Mean over rows of max_{j≠i} |cos|."""
    mean_abs_overlap_error: float
    """Standard error of the sample of rows; 0 where all rows were compared, NaN for one."""
    mean_row_max_error: float
    rows_compared: int
    """Rows in the sample of the two above; each is compared with all n rows."""
    seed: int
    random_squared_overlap: float
    random_abs_overlap: float
    random_row_max: float
    random_row_max_bound: float
    welch_bound: float
    """Least possible largest |cos|; its square is the least possible mean squared overlap."""

    def to_dict(self) -> Json:
        """The figures as JSON values; None where one is undefined."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in (asdict(self) | {"dimensionality_quantiles": self._named()}).items()
        }

    def _named(self) -> dict[str, float]:
        return {str(q): v for q, v in zip(QUANTILES, self.dimensionality_quantiles, strict=True)}


@torch.no_grad()
def feature_dimensions(W: Tensor) -> FeatureDimensions:
    """D_i and interference_i of each row of W [n, d], any float dtype, on W's device.

    Raises `ValueError` where W is no matrix or has only zero rows, `NonFiniteError` for NaN.
    """
    return _feature_dimensions(UnitRows(W, None))


@torch.no_grad()
def mean_squared_overlap(W: Tensor, weights: Tensor | None = None) -> float:
    """Σ_{i≠j} p_i p_j cos²_ij / Σ_{i≠j} p_i p_j, exactly; all p equal without weights.

    `weights` [n], not negative, in any scale: for instance how often each token occurs. NaN for
    one row that is neither zero nor of weight 0. Raises what `feature_dimensions` raises, and
    `ValueError` for weights that do not fit.
    """
    return _mean_squared_overlap(UnitRows(W, weights))


@torch.no_grad()
def measure_directions(
    W: Tensor, *, weights: Tensor | None = None, sample_rows: int = 4096, seed: int = 0
) -> Directions:
    """All figures of `Directions` for the rows of W [n, d], any float dtype, on W's device.

    Mean |cos| and row maxima take n·`sample_rows`·d multiplications: at most so many rows are
    compared with all others, drawn evenly without replacement or, with weights, in proportion to
    them with replacement. Raises what `mean_squared_overlap` raises.
    """
    if sample_rows < 1:
        raise ValueError(f"sample_rows is {sample_rows}: wanted at least 1")
    rows = UnitRows(W, weights)
    dimensionality, interference = _feature_dimensions(rows)
    pairs = compare_pairs(rows, sample_rows=sample_rows, seed=seed)
    kept, squares, overlap = rows.kept, rows.norms.square().sum(), _mean_squared_overlap(rows)
    levels = torch.tensor(QUANTILES, dtype=torch.float64, device=W.device)
    count, width = len(kept), W.shape[1]
    return Directions(
        num_rows=count,
        num_zero_rows=rows.num_zero,
        num_unused_rows=len(W) - count - rows.num_zero,
        width=width,
        weighted=rows.weighted,
        frobenius_squared=float(squares),
        dimensions_per_feature=float(width / squares),
        dimensionality_mean=float(rows.share[kept] @ dimensionality[kept]),
        dimensionality_sum=float(dimensionality[kept].sum()),
        dimensionality_quantiles=tuple(torch.quantile(dimensionality[kept], levels).tolist()),
        interference_mean=float(rows.share[kept] @ interference[kept]),
        common_direction=_common_direction(rows),
        mean_squared_overlap=overlap,
        overlap_times_width=overlap * width,
        mean_abs_overlap=pairs.mean_abs,
        mean_row_max=pairs.mean_max,
        mean_abs_overlap_error=pairs.mean_abs_error,
        mean_row_max_error=pairs.mean_max_error,
        rows_compared=pairs.num_compared,
        seed=seed,
        random_squared_overlap=random_directions.squared_overlap(width),
        random_abs_overlap=random_directions.absolute_overlap(width),
        random_row_max=random_directions.row_maximum(count, width),
        random_row_max_bound=random_directions.row_maximum_bound(count, width),
        welch_bound=random_directions.welch(count, width),
    )


def _feature_dimensions(rows: UnitRows) -> FeatureDimensions:
    gram = rows.gram(rows.norms)
    squares, total = rows.norms.square(), torch.empty_like(rows.norms)
    for span in rows.spans():
        unit = rows.unit(span)
        total[span] = ((unit @ gram) * unit).sum(1)
    interference = (total - squares).clamp(min=0)
    return FeatureDimensions(
        dimensionality=(squares / total).clamp(max=1),
        interference=torch.where(squares > 0, interference, math.nan),
    )


def _mean_squared_overlap(rows: UnitRows) -> float:
    if len(rows.kept) < 2:
        return math.nan
    with_itself = float(rows.share.square().sum())
    if with_itself >= 1:
        return math.nan  # One row has all of the weight that float64 can tell apart.
    overlap = float(rows.gram(rows.share.sqrt()).square().sum()) - with_itself
    return min(1.0, max(0.0, overlap / (1 - with_itself)))


def _common_direction(rows: UnitRows) -> float:
    mean = torch.zeros(rows.width, dtype=torch.float64, device=rows.W.device)
    for span in rows.spans():
        mean += rows.share[span] @ rows.unit(span)
    return float(mean.square().sum())
