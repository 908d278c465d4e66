"""The training loss: fraction of variance unexplained, plus AuxK for dead latents.

    L = Σ‖x - x̂‖² / Σ‖x - x̄‖²  +  w · Σ‖e - ê‖² / Σ‖e - ē‖²

e = x - x̂ is detached; ê decodes, without b_dec, the largest pre-activations of dead latents
(Gao et al. 2024, appendix A.2). Both terms are pooled over the batch and centred on its mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope.dictionaries.topk import TopK
from bathyscope_kernels import Autoencoded, Encoded, topk_autoencode


def fvu(x: Tensor, x_hat: Tensor) -> Tensor:
    """Σ‖x - x̂‖² / Σ‖x - x̄‖² over a batch [rows, d], with its own mean x̄; a scalar."""
    return (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()


def autoencode(dictionary: TopK, x: Tensor, dead: Tensor) -> Autoencoded:
    """Latents and reconstruction of a batch, and ê by the dead latents; all with gradient.

    `dead` holds the numbers of dead latents, sorted, int64. At most d_in // 2 of them are used
    per row. The matrices get row-sparse gradients.
    """
    return topk_autoencode(
        x,
        dictionary.W_enc,
        dictionary.b_enc,
        dictionary.W_dec,
        dictionary.b_dec,
        dictionary.k,
        dead=dead,
        k_aux=max(x.shape[1] // 2, 1),
    )


def auxk(x: Tensor, x_hat: Tensor, error_hat: Tensor | None) -> Tensor:
    """How badly the dead latents alone explain the error; a scalar, zero when none is dead.

    Gradients reach the dead rows of W_enc, b_enc and W_dec, and b_dec through the encoder's
    input. As ê goes through the ReLU, a latent whose pre-activation is above zero on no row of the
    batch gets no gradient.
    """
    if error_hat is None:
        return x.new_zeros(())
    return fvu((x - x_hat).detach(), error_hat)


def fired(latents: Encoded, num_latents: int) -> Tensor:
    """Which latents were active in a batch: bool [num_latents]."""
    active = torch.zeros(num_latents, dtype=torch.bool, device=latents.indices.device)
    active[latents.indices[latents.values > 0].long()] = True
    return active
