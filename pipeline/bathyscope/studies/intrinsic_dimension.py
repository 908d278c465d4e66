"""TwoNN: the dimension of the surface that rows lie on, from their two nearest neighbours.

Facco, d'Errico, Rodriguez and Laio 2017 ("Estimating the intrinsic dimension of datasets by a
minimal neighborhood information", Scientific Reports 7:12140). Where the density is about constant
up to the second neighbour, μ = r₂/r₁ of a row has the distribution F(μ) = 1 - μ^(-D), so ln μ is
exponential with rate D:

    maximum likelihood   D = (N - 1) / Σ ln μ           without bias; N/Σ ln μ is high by N/(N-1)
    interval             χ²_{2N} quantiles / (2 Σ ln μ)
    linear fit           -ln(1 - F_i) = D ln μ_i through the origin, F_i = i/N of the sorted μ,
                         without the largest μ (a tenth in the paper)

The interval is exact for independent μ. Rows that are each other's neighbours share r₁, so it is a
little narrow: of 200 draws of 500 rows on a flat torus, 176 of the intervals at 95 % held the 2. It
knows nothing of the bias, nor of rows that come from one document.

The bias is downward, and large where D is: the rows needed grow exponentially with D, because
neighbours are then so far apart that most rows are near an edge. 2,000 isotropic Gaussian rows of
5, 10, 20 and 50 dimensions come out at 4.9, 9.5, 17.6 and 31.4, and 8,192 of 768 at 170. So read a
value above ten as a lower bound, and compare only values of equal N. Neighbours are sought within
the sample: a smaller sample looks at a larger scale, and a plateau over sample sizes is what makes
a value believable. Quantised rows have equal distances; μ = 1 of such ties drives the estimate up,
and their number is in the result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from scipy.stats import chi2
from torch import Tensor

from bathyscope.metrics.finite import require_finite
from bathyscope.values import Json

# One float64 block of distances is 32 MB.
_BLOCK_ELEMENTS = 1 << 22
# Two neighbours, and spares for distances that rounding puts in a wrong order.
_CANDIDATES = 6
# Squared distances under this share of the largest ‖x - x̄‖² are left with few digits by products.
_DOUBTFUL = 1e-10


@dataclass(frozen=True)
class TwoNN:
    """An intrinsic dimension by both estimates, with what it rests on."""

    maximum_likelihood: float
    low: float
    """Lower end of the interval of `maximum_likelihood`."""
    high: float
    level: float
    """Coverage of the interval for independent rows."""
    linear_fit: float
    discard: float
    """Share of the largest μ that the linear fit leaves out."""
    num_rows: int
    """Distinct rows that were used, N."""
    num_duplicates: int
    """Rows of the sample that were equal to another one and left out."""
    num_ties: int
    """Rows whose first two neighbours are equally far."""
    width: int
    seed: int

    def to_dict(self) -> Json:
        """The figures as JSON values."""
        return asdict(self)


@torch.no_grad()
def two_nn(
    x: Tensor,
    *,
    sample_rows: int = 8192,
    discard: float = 0.1,
    level: float = 0.95,
    seed: int = 0,
) -> TwoNN:
    """Estimate the intrinsic dimension of rows [n, d], any float dtype, on their device.

    At most `sample_rows` rows are drawn without replacement; N²·d multiplications. Rows equal to
    another one are left out and counted: their r₁ of 0 says nothing. Raises `ValueError` for fewer
    than three distinct rows, or distances that are all ties; `NonFiniteError` for NaN.
    """
    _check(x, sample_rows=sample_rows, discard=discard, level=level)
    sample = _sample(x, sample_rows, seed)
    require_finite("the sample of rows", sample)
    # Adding 0 makes -0 and 0 one value.
    rows = torch.unique(sample.to(torch.float64) + 0.0, dim=0)
    if len(rows) < 3:
        raise ValueError(
            f"{len(rows)} distinct rows of {len(sample)}: two nearest neighbours need three"
        )
    log_ratios = _log_ratios(rows)
    total = float(log_ratios.sum())
    if total <= 0:
        raise ValueError(
            f"both neighbours of all {len(rows)} rows are equally far: rows on a lattice, or "
            "rounded ones, have no TwoNN dimension; give rows of more digits"
        )
    num_rows, tail = len(rows), (1 - level) / 2
    return TwoNN(
        maximum_likelihood=(num_rows - 1) / total,
        low=float(chi2.ppf(tail, 2 * num_rows)) / (2 * total),
        high=float(chi2.ppf(1 - tail, 2 * num_rows)) / (2 * total),
        level=level,
        linear_fit=_linear_fit(log_ratios, discard),
        discard=discard,
        num_rows=num_rows,
        num_duplicates=len(sample) - num_rows,
        num_ties=int((log_ratios == 0).sum()),
        width=x.shape[1],
        seed=seed,
    )


def _check(x: Tensor, *, sample_rows: int, discard: float, level: float) -> None:
    if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
        raise ValueError(f"x is {tuple(x.shape)} of {x.dtype}: wanted floats [rows, width]")
    if sample_rows < 3 or not 0 <= discard < 1 or not 0 < level < 1:
        raise ValueError(
            f"sample_rows {sample_rows}, discard {discard}, level {level}: wanted at least 3, a "
            "share in [0, 1) and a coverage in (0, 1)"
        )


def _sample(x: Tensor, sample_rows: int, seed: int) -> Tensor:
    if len(x) <= sample_rows:
        return x
    drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:sample_rows]
    return x[drawn.to(x.device)]


def _log_ratios(rows: Tensor) -> Tensor:
    """ln(r₂/r₁) of each of the distinct rows, float64 [N]."""
    rows = rows - rows.mean(dim=0)
    squares = rows.square().sum(1)
    step, doubtful = max(1, _BLOCK_ELEMENTS // len(rows)), _DOUBTFUL * squares.max()
    found = []
    for start in range(0, len(rows), step):
        at = torch.arange(start, min(start + step, len(rows)), device=rows.device)
        distances = _by_products(rows, squares, at)
        unsure = distances[:, 1].square() < doubtful
        if bool(unsure.any()):
            distances[unsure] = _by_differences(rows, at[unsure])
        found.append((distances[:, 1] / distances[:, 0]).log())
    return torch.cat(found)


def _by_products(rows: Tensor, squares: Tensor, at: Tensor) -> Tensor:
    """r₁ and r₂ of the rows at `at`, [len(at), 2]: products find them, differences measure them.

    ‖a‖² + ‖b‖² - 2a·b is ten times as fast as differences, and has few digits for close rows.
    """
    block = rows[at]
    distances = torch.addmm(squares, block, rows.T, alpha=-2)
    distances[torch.arange(len(at), device=at.device), at] = torch.inf
    count = min(_CANDIDATES, len(rows) - 1)
    near = distances.topk(count, dim=1, largest=False).indices
    exact = [torch.linalg.vector_norm(rows[near[:, k]] - block, dim=1) for k in range(count)]
    return torch.stack(exact, dim=1).topk(2, dim=1, largest=False).values


def _by_differences(rows: Tensor, at: Tensor) -> Tensor:
    """What `_by_products` returns, for neighbours so close that products cannot find them."""
    distances = torch.cdist(rows[at], rows, compute_mode="donot_use_mm_for_euclid_dist")
    distances[torch.arange(len(at), device=at.device), at] = torch.inf
    return distances.topk(2, dim=1, largest=False).values


def _linear_fit(log_ratios: Tensor, discard: float) -> float:
    """The slope through the origin of -ln(1 - i/N) against sorted ln μ, without the last share."""
    count = len(log_ratios)
    # The last point has F = 1, so that its logarithm is infinite.
    kept = max(1, min(count - 1, round(count * (1 - discard))))
    x = log_ratios.sort().values[:kept]
    ranks = torch.arange(1, kept + 1, dtype=torch.float64, device=x.device)
    y = -torch.log1p(-ranks / count)
    return float((x @ y) / (x @ x))
