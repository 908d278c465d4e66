"""The training loss: fraction of variance unexplained, AuxK for dead latents, and sparsity.

    L = mean over prefixes and hook points of  Σ‖y - ŷ‖² / Σ‖y - ȳ‖²
        + w_aux · Σ‖e - ê‖² / Σ‖e - ē‖²  +  sparsity

e = y - ŷ is detached; ê decodes, without b_dec, the largest pre-activations of dead latents
(Gao et al. 2024, arXiv:2406.04093, appendix A.2). All sums are over the whole batch and centred
on its mean, per hook point, so that hook points count alike whatever their widths and scales.

The denominators are known before the gradient is: so the rest is a sum over rows, and passes over
some rows each, in this process or in others, add up to the gradient of the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.dictionaries.layout import Columns
from bathyscope.training.mesh import Mesh


class Spread(NamedTuple):
    """How much rows differ from their mean, per hook point."""

    sums: Tensor
    """Σ‖y - ȳ‖² over the batch [hook points]."""

    @classmethod
    def of(cls, rows: Tensor, columns: Columns, mesh: Mesh, num_rows: int) -> Spread:
        """That of the batch of which `rows` [n, d] are this process's; it has `num_rows`."""
        rows = rows.detach()
        mean = mesh.sum_rows(rows.sum(0)) / num_rows
        return cls(mesh.sum_rows(by_block((rows - mean).square().sum(0), columns)))


def by_block(per_column: Tensor, columns: Columns) -> Tensor:
    """Sums over the columns of each hook point: [..., d] to [..., hook points]."""
    return torch.stack([per_column[..., block.columns].sum(-1) for block in columns], dim=-1)


def unexplained(y: Tensor, y_hats: Tensor, columns: Columns, spread: Spread) -> Tensor:
    """The FVU of rows y [n, d] by y_hats [prefixes, n, d]: [prefixes, hook points].

    Each is the share that these rows have in the FVU of the batch.
    """
    return by_block((y - y_hats).square().sum(1), columns) / spread.sums


def fvu(x: Tensor, x_hat: Tensor) -> Tensor:
    """Σ‖x - x̂‖² / Σ‖x - x̄‖² over a batch [rows, d], with its own mean x̄; a scalar."""
    return (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
