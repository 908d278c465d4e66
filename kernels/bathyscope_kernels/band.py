"""The band around a threshold, theta - eps / 2 to theta + eps / 2, through which it is trained.

Flow: gradients of the entries of a `Thresholded` go in, their sum over the entries in the band of
each latent comes out. Activations and their number (L0) have a gradient of this form.
"""

import math

import torch
from torch import Tensor

from bathyscope_kernels.ragged_products import by_latent, sum_by_latent


@torch.library.custom_op("bathyscope::band_sum", mutates_args=())
def band_sum(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    active: Tensor,
    threshold: Tensor,
    bandwidth: float,
) -> Tensor:
    """Return the sum of grad * rect((pre - theta) / eps) for each latent, [latents].

    `grad` [nnz] has a number for each entry of a `Thresholded`; the next four tensors are that.
    """
    # An entry that is not active is in the lower half; the value of an active one is pre.
    ceiling = threshold.to(grad.dtype) + bandwidth / 2
    in_band = ~active | (values < ceiling[indices])
    lists = by_latent(indices, offsets, num_latents=threshold.numel())
    return sum_by_latent(grad.masked_fill(~in_band, 0), lists)


@band_sum.register_fake
def _(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    active: Tensor,
    threshold: Tensor,
    bandwidth: float,
) -> Tensor:
    return grad.new_empty(threshold.shape)


def check_bandwidth(threshold: Tensor, bandwidth: float) -> None:
    """Raise ValueError for a width that is none, or that cannot give a gradient asked for."""
    if not (math.isfinite(bandwidth) and bandwidth >= 0):
        raise ValueError(
            f"got bandwidth = {bandwidth}, wanted a finite number >= 0: the width of the band "
            "around the threshold that trains it"
        )
    if bandwidth == 0 and threshold.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "got bandwidth = 0 and a threshold that asks for a gradient, which is zero without a "
            "band; give a bandwidth, or pass threshold.detach() or call under torch.no_grad()"
        )
