"""Do two seeds learn the same latents? Matches of decoder (and encoder) rows by cosine.

Two dictionaries of the same activations are compared in weight space: the bijective match with the
largest sum of cosines, and the share of latents whose partner is above 0.7 (Paulo and Belrose
2025, arXiv:2501.16615, who take the mean of encoder and decoder cosines).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bathyscope.metrics.finite import require_finite
from bathyscope.metrics.planted import match
from bathyscope.studies.assignment import assign
from bathyscope.studies.sparse_rows import Floats, Integers

DENSE_LATENTS = 4096
# Entries of one block of cosines: 128 MB in float32.
_BLOCK_ELEMENTS = 1 << 25


class WeightMatch(NamedTuple):
    """Partners by cosine."""

    partners: Integers
    """Latent of b of each latent of a [latents of a]; -1 without one."""
    cosines: Floats
    """Cosine with the partner; 0 without one."""
    best: Floats
    """Largest cosine with any latent of b, the one-sided score [latents of a]."""
    exact: bool
    """Whether all cosines took part; else the largest ones of each latent, or an auction."""

    def share_above(self, cosine: float = 0.7) -> float:
        """Share of a's latents whose partner is above."""
        return float((self.cosines > cosine).mean())

    def summary(self) -> dict[str, float]:
        """Means and shares; `overstated` is the one-sided mean less the bijective one."""
        return {
            "num_latents": float(len(self.cosines)),
            "num_matched": float((self.partners >= 0).sum()),
            "matched_mean": float(self.cosines.mean()),
            "matched_share_above_0.7": self.share_above(0.7),
            "one_sided_mean": float(self.best.mean()),
            "one_sided_share_above_0.7": float((self.best > 0.7).mean()),
            "overstated": float(self.best.mean() - self.cosines.mean()),
            "exact": float(self.exact),
        }


def match_weights(
    a: Tensor, b: Tensor, *, per_latent: int = 16, dense_latents: int = DENSE_LATENTS
) -> WeightMatch:
    """Return the match of rows a [latents, d] and b [latents, d].

    Up to `dense_latents` on both sides all cosines take part, below 0 too; above, the
    `per_latent` largest above 0 of each latent of either side. For the mean of decoder and encoder
    cosines pass `both_sides`. Raises `ValueError` for other widths and no latents.
    """
    _check(a, b)
    if max(len(a), len(b)) <= dense_latents:
        # Both in float64, so that no partner is above the best.
        a, b = a.detach().double().cpu(), b.detach().double().cpu()
        partners, cosines = match(a, b)
        best, _ = top_cosines(a, b, 1)
        return WeightMatch(partners.numpy(), cosines.numpy(), best[:, 0].numpy(), True)
    best, _ = top_cosines(a, b, 1)
    largest = best[:, 0].double().cpu().numpy()
    rows, columns, scores = _candidates(a, b, per_latent)
    made = assign(rows, columns, scores, num_rows=len(a), num_columns=len(b))
    return WeightMatch(made.partners, made.scores, largest, False)


def both_sides(W_dec: Tensor, W_enc: Tensor) -> Tensor:
    """Return [latents, d_out + d_in] whose cosines are the means of decoder and encoder cosines.

    Each row is the unit decoder row beside the unit encoder row.
    """
    if W_dec.ndim != 2 or W_enc.ndim != 2 or len(W_dec) != len(W_enc):
        raise ValueError(
            f"W_dec is {list(W_dec.shape)} and W_enc {list(W_enc.shape)}: wanted [latents, d_out] "
            "and [latents, d_in]"
        )
    return torch.cat([normalize(W_dec.detach().float()), normalize(W_enc.detach().float())], 1)


def unique_share(W_dec: Tensor, threshold: float = 0.9) -> float:
    """Return the share of latents whose largest cosine with another decoder row is below.

    `W_dec` [latents, d]; blocks of latents x latents, so time is quadratic and memory is not. A
    single latent is unique. Raises `ValueError` for no latents.
    """
    _check(W_dec, W_dec)
    if len(W_dec) == 1:
        return 1.0
    # Its own cosine is left out by place, so a second equal row is still seen.
    best, _ = top_cosines(W_dec, W_dec, 1, same=True)
    return float((best[:, 0] < threshold).double().mean())


@torch.no_grad()
def top_cosines(a: Tensor, b: Tensor, most: int, *, same: bool = False) -> tuple[Tensor, Tensor]:
    """Return the largest cosines of each row of a with rows of b and their places, [rows, most].

    On a's device; float64 for float64 rows, else float32. `same` leaves out each row's cosine with
    itself.
    """
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    units_a, units_b = normalize(a.to(dtype)), normalize(b.to(a.device, dtype))
    most = min(most, len(b) - same)
    values, places = [], []
    step = max(1, _BLOCK_ELEMENTS // len(b))
    for start in range(0, len(a), step):
        cosines = units_a[start : start + step] @ units_b.T
        if same:
            own = torch.arange(len(cosines), device=cosines.device)
            cosines[own, start + own] = -torch.inf
        found = cosines.topk(most, dim=1)
        values.append(found.values)
        places.append(found.indices)
    return torch.cat(values), torch.cat(places)


def _candidates(a: Tensor, b: Tensor, per_latent: int) -> tuple[Integers, Integers, Floats]:
    """The largest cosines above 0 of each latent of either side, each pair once."""
    keys, scores = [], []
    for first, second, turned in ((a, b, False), (b, a, True)):
        values, places = top_cosines(first, second, per_latent)
        own = torch.arange(len(first), device=places.device)[:, None].expand_as(places)
        row, column = (places, own) if turned else (own, places)
        keys.append((row * len(b) + column).flatten().cpu().numpy())
        scores.append(values.flatten().double().cpu().numpy())
    key, first_places = np.unique(np.concatenate(keys), return_index=True)
    # Rounding of float32 can lift equal rows above 1.
    score = np.minimum(np.concatenate(scores)[first_places], 1.0)
    rows, columns = np.divmod(key[score > 0], len(b))
    return rows, columns, score[score > 0]


def _check(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(
            f"rows are {list(a.shape)} and {list(b.shape)}: wanted [latents, d] of one width with "
            "at least one latent"
        )
    require_finite("rows of a", a)
    require_finite("rows of b", b)
