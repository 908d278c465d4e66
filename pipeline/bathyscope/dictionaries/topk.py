"""TopK (Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv:2406.04093).

z = the k largest of relu(W_enc (x - centre) + b_enc) per row
"""

from __future__ import annotations

from torch import Tensor

from bathyscope.dictionaries.activation_function import ActivationFunction, Active
from bathyscope.dictionaries.peers import Peers
from bathyscope_kernels import Encoded, topk_encode, topk_lists


class TopK(ActivationFunction):
    """The k largest positive pre-activations of each row."""

    name = "topk"
    fixed_l0 = True

    def encode(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Encoded:
        """The k largest positive pre-activations of rows x [rows, d_in]."""
        return topk_encode(x, W_enc, b_enc, self.k)

    def active(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None, peers: Peers
    ) -> Active:
        """The same, with gradients: of the values only, as in torch.topk."""
        held = min(self.k, W_enc.shape[0])
        lists = topk_lists(x, W_enc, b_enc, held, centre=centre)
        keep = peers.largest(lists.pre, lists.indices, lists.used, self.k, 1)
        values = lists.pre.masked_fill(~keep, 0)
        return Active(values, lists.indices, keep, keep.sum(1).to(values.dtype))
