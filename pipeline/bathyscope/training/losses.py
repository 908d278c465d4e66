"""The training loss: fraction of variance unexplained, plus AuxK for dead latents.

    L = Σ‖x - x̂‖² / Σ‖x - x̄‖²  +  w · Σ‖e - ê‖² / Σ‖e - ē‖²

e = x - x̂ is detached; ê decodes, without b_dec, the largest pre-activations of dead latents
(Gao et al. 2024, appendix A.2). Both terms are pooled over the batch and centred on its mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope.dictionaries.topk import TopK
from bathyscope_kernels import Encoded, auxk_encode, sparse_decode


def fvu(x: Tensor, x_hat: Tensor) -> Tensor:
    """Σ‖x - x̂‖² / Σ‖x - x̄‖² over a batch [rows, d], with its own mean x̄; a scalar."""
    return (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()


def auxk(dictionary: TopK, x: Tensor, x_hat: Tensor, dead: Tensor) -> Tensor:
    """How badly the dead latents alone explain the error; a scalar, zero when none is dead.

    `dead` holds the numbers of dead latents, sorted, int64. At most d_in // 2 of them are used
    per row. Gradients reach the dead rows of W_enc, b_enc and W_dec, and b_dec through the
    encoder's input. As ê goes through the ReLU, a latent whose pre-activation is above zero on no
    row of the batch gets no gradient.
    """
    if len(dead) == 0:
        return x.new_zeros(())
    error = (x - x_hat).detach()
    found = auxk_encode(
        x - dictionary.b_dec, dictionary.W_enc, dictionary.b_enc, max(x.shape[1] // 2, 1), dead
    )
    error_hat = sparse_decode(found.values, found.indices, dictionary.W_dec[dead])
    return fvu(error, error_hat)


def encode_decode(dictionary: TopK, x: Tensor) -> tuple[Encoded, Tensor]:
    """Latents and reconstruction of a batch, both with gradient."""
    latents = dictionary.encode(x)
    return latents, dictionary.decode(latents)


def fired(latents: Encoded, num_latents: int) -> Tensor:
    """Which latents were active in a batch: bool [num_latents]."""
    active = torch.zeros(num_latents, dtype=torch.bool, device=latents.indices.device)
    active[latents.indices[latents.values > 0].long()] = True
    return active
