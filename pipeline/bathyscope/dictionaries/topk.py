"""TopK (Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv:2406.04093).

z = the k largest of relu(W_enc (x - centre) + b_enc) per row
"""

from __future__ import annotations

from torch import Tensor

from bathyscope.dictionaries.activation_function import ActivationFunction, Active, kept
from bathyscope.dictionaries.peers import Alone, Peers
from bathyscope_kernels import Encoded, topk_encode, topk_rows


class TopK(ActivationFunction):
    """The k largest positive pre-activations of each row."""

    name = "topk"
    encodes_with_k = True

    def encode(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Encoded:
        """The k largest positive pre-activations of rows x [rows, d_in]."""
        return topk_encode(x, W_enc, b_enc, self.k)

    def active(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None, peers: Peers
    ) -> Active:
        """The same, with gradients: of the values only, as in torch.topk."""
        entries = topk_rows(x, W_enc, b_enc, min(self.k, len(b_enc)), centre=centre)
        if not isinstance(peers, Alone):
            entries = kept(entries, peers.largest(entries, self.k, 1, len(b_enc)))
        return Active(*entries, entries.values.new_tensor(float(entries.values.numel())))
