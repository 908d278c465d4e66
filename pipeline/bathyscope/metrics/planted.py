"""How much of planted directions a dictionary has found.

Pairs of one true and one learned direction each, chosen so that the sum of their cosines is
largest (the assignment problem), give two figures:

    matched cosine   mean over true directions of the cosine with its partner, 0 without one
    activation F1    mean over true directions that are active somewhere of 2 P R / (P + R), where P
                     and R are precision and recall of "partner active" for "direction active"

One learned direction counts for one true one only, so a mixture of two cannot count twice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize


class PlantedScores(NamedTuple):
    """What was found of planted directions."""

    matched_cosine: float
    f1: float
    share_above_09: float
    """True directions whose partner has a cosine above 0.9."""


def match(true: Tensor, learned: Tensor) -> tuple[Tensor, Tensor]:
    """Partner of each true direction and their cosine [true]; -1 and 0 without one.

    `true` [t, d] and `learned` [n, d] need no unit norm. Raises `ValueError` for other widths.
    """
    if true.ndim != 2 or learned.ndim != 2 or true.shape[1] != learned.shape[1]:
        raise ValueError(
            f"directions are {list(true.shape)} and {list(learned.shape)}: wanted [true, d] and "
            "[learned, d]"
        )
    cosines = normalize(true.double(), dim=1) @ normalize(learned.double(), dim=1).T
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    partners = torch.full((len(true),), -1)
    found = torch.zeros(len(true), dtype=torch.float64)
    partners[torch.from_numpy(rows)] = torch.from_numpy(columns)
    found[torch.from_numpy(rows)] = cosines[rows, columns]
    return partners, found


def planted_scores(
    true: Tensor, learned: Tensor, true_active: Tensor, learned_active: Tensor
) -> PlantedScores:
    """The scores; `true_active` [rows, t] and `learned_active` [rows, n] are bool."""
    partners, cosines = match(true, learned)
    paired = partners.clamp_min(0)
    theirs = learned_active[:, paired] & (partners >= 0)
    both = (true_active & theirs).sum(0).double()
    total = (true_active.sum(0) + theirs.sum(0)).double()
    f1 = (2 * both / total.clamp_min(1)).numpy()
    seen = true_active.any(0).numpy()
    return PlantedScores(
        float(cosines.mean()),
        float(np.mean(f1[seen])) if seen.any() else float("nan"),
        float((cosines > 0.9).double().mean()),
    )
