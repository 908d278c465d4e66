"""Latent scaling: is a crosscoder's latent exclusive to a hook point, or does its norm mislead?

Minder et al. 2025 ("Robustly identifying concepts introduced during chat fine-tuning using
crosscoders", arXiv:2504.02922). A sparsity penalty can take a latent's decoder row away from a hook
point whose rows have the latent's direction d all the same (complete shrinkage), or leave the work
there to other latents (latent decoupling). So the direction is looked for in what is there. With d
the decoder row at the hook point h* where it is longest, for each hook point h

    β_ε = argmin_β Σ ‖β z d - ε_h‖² = Σ z ε_h·d / (‖d‖² Σ z²),    ε_h = x_h - x̂_h + z d_h
    β_r = the same with r_h = x̂_h - b_dec_h, what all latents write there

over held-out rows; ε_h is what is left when all latents but this one have written. Then

    ν_ε = β_ε(h) / β_ε(h*),     ν_r = β_r(h) / β_r(h*)

ν_ε near 1: rows of h have the direction as much as those of h*, and no other latent writes it.
ν_r near 1: it is written at h as much as at h*, if not by this latent then by others. A claim that
the latent is exclusive to h* needs both to be small at all other hook points. Hook points must have
one width: a direction of one is looked for in another.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.dictionaries.crosscoder import Crosscoder
from bathyscope.errors import ConfigError

_ENTRIES = 2**15
LARGEST_ERROR, LARGEST_RECONSTRUCTION, LEAST_SHARE = 0.2, 0.5, 0.9
"""Exclusive is what has ν_ε and ν_r below these, and so much of its norm at one hook point."""


class Scaling(NamedTuple):
    """What the rows say of each latent [latents, hook points]; NaN where it was never active."""

    share: Tensor
    """‖decoder row at the hook point‖ over the sum of these norms."""
    beta_error: Tensor
    beta_reconstruction: Tensor
    nu_error: Tensor
    nu_reconstruction: Tensor
    num_rows: Tensor
    """Rows in which the latent was active [latents]."""

    @property
    def by_norm(self) -> Tensor:
        """Which hook point has 90 % of the norm of a latent; -1 for none [latents]."""
        largest = self.share.max(1)
        return torch.where(largest.values >= LEAST_SHARE, largest.indices, -1)

    @property
    def exclusive(self) -> Tensor:
        """The hook point that a latent is exclusive to by norm and by ν; -1 for none [latents]."""
        best = torch.nn.functional.one_hot(self.share.argmax(1), self.share.shape[1]).bool()
        small = (self.nu_error < LARGEST_ERROR) & (self.nu_reconstruction < LARGEST_RECONSTRUCTION)
        return torch.where((small | best).all(1) & (self.num_rows > 0), self.by_norm, -1)


def has_one_width(dictionary: Crosscoder) -> bool:
    """Whether directions of one hook point can be looked for in the others."""
    return len({block.width for block in dictionary.outputs}) == 1


class LatentScaling:
    """Streaming sums for `Scaling`: float64 [latents, hook points].

    `scales` [d_out] are those of the crosscoder's columns: hook points are compared as they were
    trained on. Raises `ConfigError` for hook points of different widths.
    """

    def __init__(self, dictionary: Crosscoder, scales: Tensor) -> None:
        if not has_one_width(dictionary):
            widths = {block.hook_point: block.width for block in dictionary.outputs}
            raise ConfigError(
                f"Hook points have widths {widths}. Latent scaling looks for a direction of one in "
                "the rows of another, which needs one width."
            )
        W_dec = dictionary.W_dec.detach() / scales.to(dictionary.W_dec)
        self._scales = scales.to(W_dec)
        self._b_dec = None if dictionary.b_dec is None else dictionary.b_dec.detach()
        self._columns = dictionary.outputs
        rows = torch.stack([W_dec[:, block.columns] for block in self._columns], dim=1)
        self._norms = torch.linalg.vector_norm(rows, dim=2).double()
        self._best = self._norms.argmax(1)
        self._direction = rows[torch.arange(len(rows), device=rows.device), self._best]
        self._own = torch.einsum("fhd,fd->fh", rows.double(), self._direction.double())
        self._error = torch.zeros_like(self._norms)
        self._reconstruction = torch.zeros_like(self._norms)
        self._squares = torch.zeros_like(self._norms[:, 0])
        self._counts = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)

    @torch.no_grad()
    def update(self, values: Tensor, indices: Tensor, x: Tensor, x_hat: Tensor) -> None:
        """Add rows: latents [rows, width], and what they are [rows, d_out] and should be, raw."""
        row, place = (values != 0).nonzero(as_tuple=True)
        z, latents = values[row, place].to(self._direction.dtype), indices[row, place].long()
        error = (x - x_hat) / self._scales
        written = (x_hat if self._b_dec is None else x_hat - self._b_dec) / self._scales
        self._counts += torch.bincount(latents, minlength=len(self._counts))
        self._squares.index_add_(0, latents, z.double().square())
        for some in torch.arange(len(z), device=z.device).split(_ENTRIES):
            direction = z[some, None] * self._direction[latents[some]]
            for number, block in enumerate(self._columns):
                for sums, rows in ((self._error, error), (self._reconstruction, written)):
                    dots = (rows[row[some]][:, block.columns] * direction).sum(1)
                    sums[:, number].index_add_(0, latents[some], dots.double())

    def result(self) -> Scaling:
        """What all rows so far say."""
        own = self._squares[:, None] * self._own
        length = self._direction.double().square().sum(1) * self._squares
        error = (self._error + own) / length[:, None]
        reconstruction = self._reconstruction / length[:, None]
        best = self._best[:, None]
        return Scaling(
            share=self._norms / self._norms.sum(1, keepdim=True),
            beta_error=error,
            beta_reconstruction=reconstruction,
            nu_error=error / error.gather(1, best),
            nu_reconstruction=reconstruction / reconstruction.gather(1, best),
            num_rows=self._counts,
        )
