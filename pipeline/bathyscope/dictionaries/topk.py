"""The TopK sparse autoencoder (Gao et al. 2024, "Scaling and evaluating sparse autoencoders").

    z = relu(top_k(W_enc (x - b_dec) + b_enc)),    x̂ = W_decᵀ z + b_dec

Rows of both matrices are latents. Encode and decode run in `bathyscope_kernels`: the dense
[rows, latents] scores never exist.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bathyscope.dictionaries.layout import ColumnBlock
from bathyscope.errors import ConfigError
from bathyscope_kernels import Encoded, sparse_decode, topk_encode


class TopK(nn.Module):
    """A TopK dictionary over one hook point."""

    kind = "topk"

    def __init__(
        self, *, d_in: int, num_latents: int, k: int, hook_point: str = "", dtype: torch.dtype
    ) -> None:
        super().__init__()
        if not 1 <= k <= num_latents:
            raise ConfigError(
                f"dictionary.k is {k} and the dictionary has {num_latents} latents. k must lie "
                f"between 1 and {num_latents}: choose a smaller k or more latents."
            )
        self.k = k
        self.columns = (ColumnBlock(hook_point, 0, d_in),)
        self.W_enc = nn.Parameter(torch.empty(num_latents, d_in, dtype=dtype))
        self.W_dec = nn.Parameter(torch.empty(num_latents, d_in, dtype=dtype))
        self.b_enc = nn.Parameter(torch.zeros(num_latents, dtype=dtype))
        self.b_dec = nn.Parameter(torch.zeros(d_in, dtype=dtype))

    @property
    def num_latents(self) -> int:
        """Number of latents, the rows of both matrices."""
        return self.W_dec.shape[0]

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads."""
        return self.W_enc.shape[1]

    def encode(self, x: Tensor) -> Encoded:
        """The k largest positive pre-activations of rows x [rows, d_in]."""
        return topk_encode(x - self.b_dec, self.W_enc, self.b_enc, self.k)

    def decode(self, latents: Encoded) -> Tensor:
        """The reconstruction [rows, d_in]."""
        return sparse_decode(latents.values, latents.indices, self.W_dec, self.b_dec)

    def forward(self, x: Tensor) -> Tensor:
        """x̂ for rows x [rows, d_in]."""
        reconstruction: Tensor = self.decode(self.encode(x))
        return reconstruction

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Set every decoder row to unit norm, leaving rows of zeros alone."""
        norms = torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True)
        self.W_dec.div_(norms.clamp_min(torch.finfo(self.W_dec.dtype).tiny))

    @torch.no_grad()
    def fold_scale(self, scale: float) -> None:
        """Make a dictionary trained on x / scale read x itself.

        W_enc (x/s - b_dec) + b_enc = (W_enc (x - s b_dec) + s b_enc) / s, and relu and top-k
        commute with a positive factor: only the biases change.
        """
        self.b_enc.mul_(scale)
        self.b_dec.mul_(scale)
