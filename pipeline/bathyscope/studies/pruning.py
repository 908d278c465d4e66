"""Pruning of one matrix: which entries go, and what the others become.

    magnitude   the lowest |W_ij| of the matrix
    wanda       the lowest |W_ij| · ‖X_j‖₂ of each output row            (Sun et al. 2023)
    sparsegpt   the lowest W_ij² / [H⁻¹]_jj, with the others updated     (Frantar & Alistarh 2023)

A share s of n entries is floor(s · n) of them, s taken as the decimal number that it is written as.
Entries that are zero already go first; of equal scores the first in the matrix goes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from bathyscope.errors import ConfigError, ModelError
from bathyscope.studies.calibration import InputStatistics
from bathyscope.studies.prunable import PrunableWeight

METHODS = ("magnitude", "wanda", "sparsegpt")
BLOCK_COLUMNS = 128
"""Columns of SparseGPT that are pruned before the rest of the matrix is updated."""
DAMPENING = 0.01
"""Added to the Hessian's diagonal, as a share of its mean."""

logger = logging.getLogger(__name__)


def count_of(share: float, total: int) -> int:
    """floor(share · total), without the error of binary fractions. Raises ConfigError."""
    if not (math.isfinite(share) and 0 <= share <= 1):
        raise ConfigError(f"The share to remove is {share!r}; wanted 0 to 1.")
    return math.floor(Fraction(str(float(share))) * total)


def lowest(scores: Tensor, count: int) -> Tensor:
    """Mask of exactly `count` lowest scores along the last dimension; of equal ones the first."""
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(count, dim=-1, keepdim=True).values
    below = scores < threshold
    equal = scores == threshold
    wanted = count - below.sum(-1, keepdim=True)
    return below | (equal & (equal.cumsum(-1) <= wanted))


def magnitude(weight: Tensor, share: float) -> Tensor:
    """A matrix [out, in] without the share of its entries that are smallest."""
    gone = lowest(weight.abs().flatten(), count_of(share, weight.numel()))
    return weight.masked_fill(gone.view_as(weight), 0)


def magnitude_global(weights: Sequence[PrunableWeight], share: float) -> list[Tensor]:
    """The kept entries (bool [out, in]) when one threshold holds for all weights together.

    The threshold is found digit by digit from counts, so no more than one matrix is in memory
    beside the masks. Scales of layers differ, so whole layers may go.
    """
    total = sum(w.parameter.numel() for w in weights)
    left = count_of(share, total)
    if left == 0:
        return [torch.ones_like(w.read(), dtype=torch.bool) for w in weights]
    prefix, known = 0, 31
    # Bits of a float that is not negative are ordered as its value.
    for width in (11, 10, 10):
        known -= width
        counts = torch.zeros(2**width, dtype=torch.int64)
        for weight in weights:
            bits = _bits(weight)
            inside = bits[(bits >> (known + width)) == prefix]
            digits = (inside >> known) & (2**width - 1)
            counts += torch.bincount(digits, minlength=2**width).cpu()
        digit = int((counts.cumsum(0) < left).sum())
        left -= int(counts[:digit].sum())
        prefix = (prefix << width) | digit
    masks = []
    for weight in weights:
        bits = _bits(weight)
        equal = bits == prefix
        taken = equal & (equal.cumsum(0) <= left)
        left -= int(taken.sum())
        masks.append(~((bits < prefix) | taken).view(weight.shape))
    return masks


def _bits(weight: PrunableWeight) -> Tensor:
    return weight.read().to(torch.float32).abs().flatten().view(torch.int32)


def wanda(weight: Tensor, statistics: InputStatistics, share: float) -> Tensor:
    """A matrix [out, in] without the share of each row whose |W_ij| · ‖X_j‖₂ is lowest."""
    rows, columns = weight.shape
    norms = statistics.squares.sqrt().repeat_interleave(rows // len(statistics.squares), 0)
    scores = (weight.abs().double() * norms).masked_fill_(weight == 0, -1)
    gone = lowest(scores, count_of(share, columns))
    return weight.masked_fill(gone, 0)


def sparsegpt(
    weight: Tensor,
    statistics: InputStatistics,
    share: float,
    *,
    dampening: float = DAMPENING,
    block_columns: int = BLOCK_COLUMNS,
) -> Tensor:
    """A matrix [out, in] pruned by optimal brain surgery, columns from left to right.

    When w_j is pruned, the entries right of it take up its error: w -= w_j / [H⁻¹]_jj · [H⁻¹]_j,
    with H⁻¹ that of the columns from j on. Which entries go is decided for `block_columns` columns
    of all rows at once, as in the paper: the share holds in each such block, so columns with large
    inputs that all lie in one block lose as much as the others. It holds exactly in the matrix.
    Columns whose input is always 0 go first and pass on no error.
    """
    assert statistics.hessian is not None, "sparsegpt needs statistics with the Hessian"
    groups, columns = statistics.squares.shape
    inverse = _inverse_factor(statistics.hessian, dampening)
    idle = (statistics.hessian.diagonal(dim1=-2, dim2=-1) == 0)[:, None, :]
    work = weight.to(inverse.dtype).reshape(groups, -1, columns).clone()
    rows = weight.shape[0]
    for start in range(0, columns, block_columns):
        stop = min(start + block_columns, columns)
        factor = inverse[:, start:stop, start:stop]
        part = work[:, :, start:stop].clone()
        scores = (part / factor.diagonal(dim1=-2, dim2=-1)[:, None, :]).square()
        scores.masked_fill_(idle[:, :, start:stop], 0).masked_fill_(part == 0, -1)
        count = count_of(share, rows * stop) - count_of(share, rows * start)
        gone = lowest(scores.flatten(), count).view_as(part)
        errors = _pruned_columns(part, gone, factor)
        work[:, :, start:stop] = part
        work[:, :, stop:] -= errors @ inverse[:, start:stop, stop:]
    return work.reshape(weight.shape).to(weight.dtype)


def _pruned_columns(part: Tensor, gone: Tensor, factor: Tensor) -> Tensor:
    """Prune [groups, rows, b] in place; the errors that columns further right take up."""
    errors = torch.zeros_like(part)
    for j in range(part.shape[2]):
        error = torch.where(gone[:, :, j], part[:, :, j], 0) / factor[:, None, j, j]
        part[:, :, j].masked_fill_(gone[:, :, j], 0)
        part[:, :, j + 1 :] -= error[:, :, None] * factor[:, None, j, j + 1 :]
        errors[:, :, j] = error
    return errors


def _inverse_factor(hessian: Tensor, dampening: float) -> Tensor:
    """Upper Cholesky factor U of the damped inverse Hessian, UᵀU = (H + λI)⁻¹ [groups, in, in].

    Row j of U, times U_jj, is row j of the inverse of the Hessian without its first j columns.
    """
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    eye = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    for times in (1, 10, 100):
        damped = hessian + (times * dampening * mean)[:, None, None] * eye
        factor, failed = torch.linalg.cholesky_ex(damped)
        if bool((failed == 0).all()):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
            if bool((failed == 0).all()):
                return upper
        logger.warning(
            "a Hessian of %d columns with dampening %g is not positive definite in %s: taking "
            "ten times the dampening", hessian.shape[-1], times * dampening, hessian.dtype,
        )  # fmt: skip
    raise ModelError(
        f"A Hessian of {hessian.shape[-1]} columns is not positive definite, even with "
        f"{100 * dampening:g} of its mean diagonal added. Give more calibration batches, or a "
        "larger dampening."
    )
