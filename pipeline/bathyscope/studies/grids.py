"""Weights that lie on a coarse grid already, such as those of a dequantised 4-bit file.

Rounding such weights to 4 bits again costs next to nothing, whatever the model: they say nothing
about how many bits it needs, so a study of quantisation leaves the model out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bathyscope.studies.prunable import PrunableWeight

BLOCK = 32
"""Columns that share a scale in the common 4-bit files; finer than any other that is in use."""
_COARSE = 0.7
_FEWEST = 8
_ENTRIES = 2**20


def distinct_share(weight: Tensor, block: int = BLOCK) -> float:
    """Different values among the non-zero ones of a block of columns, on average, of [out, in].

    Near 1 for weights as they were trained (0.97 in bfloat16); normal weights rounded to b bits in
    blocks of 32 give 0.35 at 4, 0.55 at 5 and 0.75 at 6 bits. Zeros are left out, so a pruned
    matrix is not taken for a rounded one. Of a large matrix about a million entries are looked at,
    in rows spread evenly. NaN where no block has 8 non-zero values.
    """
    rows, columns = weight.shape
    size = min(block, columns)
    stride = max(1, rows * columns // _ENTRIES)
    kept = weight.detach()[::stride, : columns - columns % size]
    values = kept.reshape(-1, size).sort(dim=1).values
    first = torch.ones_like(values, dtype=torch.bool)
    first[:, 1:] = values[:, 1:] != values[:, :-1]
    filled = values != 0
    counts = filled.sum(1)
    judged = counts >= _FEWEST
    if not bool(judged.any()):
        return float("nan")
    different = (first & filled).sum(1)
    return float((different[judged].double() / counts[judged].double()).mean())


def on_grid(weight: Tensor, block: int = BLOCK) -> bool:
    """Whether a matrix [out, in] holds weights rounded to 5 bits or fewer."""
    return distinct_share(weight, block) < _COARSE


def grid_reason(weights: Sequence[PrunableWeight], most: float = 0.1) -> str | None:
    """Why a model cannot take part in quantisation; None where it can.

    It cannot where more than the share `most` of its prunable weights lie on a coarse grid.
    """
    sizes = {w.path: w.parameter.numel() for w in weights}
    coarse = [w.path for w in weights if on_grid(w.read())]
    share = sum(sizes[path] for path in coarse) / sum(sizes.values())
    if share <= most:
        return None
    return (
        f"{share:.0%} of its prunable weights lie on a coarse grid already ({len(coarse)} of "
        f"{len(weights)} matrices, for instance {coarse[0]}): the checkpoint was quantised and "
        "dequantised, so quantising it again measures nothing"
    )
