"""BatchTopK (Bussmann, Leask and Nanda 2024, "BatchTopK Sparse Autoencoders", arXiv:2412.06410).

Training keeps, of each group of `group_rows` rows, the k * group_rows largest positive
pre-activations, however they spread over its rows. In use a row must not depend on its neighbours:

    z = pre where pre > threshold, else 0

with one threshold, chosen after training so that k latents are active on average.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bathyscope.dictionaries.activation_function import ActivationFunction, Active, encoded
from bathyscope.dictionaries.peers import Peers
from bathyscope.errors import ConfigError
from bathyscope.values import Json
from bathyscope_kernels import Encoded, topk_lists


class BatchTopK(ActivationFunction):
    """The largest pre-activations of a group of rows; above one threshold in use."""

    name = "batch_topk"
    tensors = ("threshold",)
    fixed_l0 = True
    passes = False

    def __init__(
        self,
        k: int,
        num_latents: int,
        dtype: torch.dtype = torch.float32,
        *,
        group_rows: int = 1024,
    ) -> None:
        super().__init__(k, num_latents, dtype)
        if group_rows < 1:
            raise ConfigError(f"dictionary.group_rows is {group_rows}; at least 1 is wanted.")
        self.group_rows = group_rows
        # One number that decides on every latent: never in less than float32.
        self.register_buffer("threshold", torch.full((), torch.nan, dtype=torch.float32))
        self.threshold: Tensor

    def encode(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Encoded:
        """Every pre-activation of rows x [rows, d_in] above the threshold.

        Raises `ConfigError` before the threshold is set (`training.calibration`).
        """
        if math.isnan(float(self.threshold)):
            raise ConfigError(
                "This BatchTopK dictionary has no threshold yet: it is set at the end of training. "
                "Train it to the end, or calibrate it."
            )
        found = self.width.encode_above(x, W_enc, b_enc, self.threshold.expand_as(b_enc))
        return encoded(found.values, found.indices)

    def active(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None, peers: Peers
    ) -> Active:
        """The largest of each group, with gradients of their values."""
        while True:
            lists = topk_lists(x, W_enc, b_enc, self.width.slots, centre=centre)
            keep = peers.largest(lists.pre, lists.indices, lists.used, self.k, self.group_rows)
            # A row whose last slot is kept may have lost others that belong to the largest.
            lost = self.width.slots < W_enc.shape[0] and bool(keep[:, -1].any())
            if not peers.any(lost):
                break
            self.width.grow(1)
        self.width.fit(keep)
        values = lists.pre.masked_fill(~keep, 0)
        return Active(values, lists.indices, keep, keep.sum(1).to(values.dtype))

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Scale the threshold."""
        self.threshold.mul_(factor)

    def settings(self) -> Json:
        """Also the rows of a group."""
        return {**super().settings(), "group_rows": self.group_rows}
