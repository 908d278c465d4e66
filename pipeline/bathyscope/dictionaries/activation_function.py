"""What makes latents of pre-activations, and how its gradients go: the part that kinds differ in.

An activation function holds what it has beside W_enc and b_enc: k, thresholds, a second bias. It
encodes for use, and it gives the active latents of a batch with gradients for training. Both are
lists [rows, width]; a [rows, latents] matrix never exists.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bathyscope.dictionaries.peers import Peers
from bathyscope.dictionaries.width import Width
from bathyscope.errors import ConfigError
from bathyscope.values import Json
from bathyscope_kernels import Encoded


class Active(NamedTuple):
    """The active latents of a batch while it is trained on, and what the loss needs of them."""

    values: Tensor
    """[rows, width]; 0 where not used. Carries gradient."""
    indices: Tensor
    """[rows, width] int32."""
    used: Tensor
    """[rows, width] bool: the slots that have a gradient; a value there may be 0."""
    l0: Tensor
    """[rows] active latents; carries gradient where thresholds are trained by it."""
    gate: Tensor | None = None
    """[rows, width] what opens the gates (Gated), with gradient."""


class ActivationFunction(nn.Module):
    """Base of all. `k` is the number of active latents per row that is wanted."""

    name: ClassVar[str]
    tensors: ClassVar[tuple[str, ...]] = ()
    """Names of its tensors, as they are in files."""
    fixed_l0: ClassVar[bool] = False
    """Whether L0 is k by construction, so that no term of the loss is needed for it."""
    passes: ClassVar[bool] = True
    """Whether a batch may be gone through in several passes over its rows."""

    def __init__(self, k: int, num_latents: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if not 1 <= k <= num_latents:
            raise ConfigError(
                f"dictionary.k is {k} and the dictionary has {num_latents} latents. k must lie "
                f"between 1 and {num_latents}: choose a smaller k or more latents."
            )
        self.k = k
        self.num_latents = num_latents
        self.width = Width(4 * k, num_latents)
        """Slots of a row's list; not part of a file."""

    def encode(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Encoded:
        """The active latents of rows x [rows, d_in], for use: no gradient."""
        raise NotImplementedError

    def active(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None, peers: Peers
    ) -> Active:
        """The active latents of rows x - centre, with gradients."""
        raise NotImplementedError

    @torch.no_grad()
    def prepare(self, pre: Tensor) -> float:
        """Set what starts from data, and return the value that b_enc is to start with.

        `pre` are pre-activations of some rows and latents [rows, latents], without a bias.
        """
        return 0.0

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Make it work on pre-activations that are `factor` times as large."""

    @torch.no_grad()
    def fit(self, W_enc: Tensor, b_enc: Tensor, factor: float) -> None:
        """Multiply the values of all latents by `factor`, the same ones staying active."""
        W_enc.mul_(factor)
        b_enc.mul_(factor)
        self.scale(factor)

    def settings(self) -> Json:
        """What config.json says of it."""
        return {"activation": self.name, "k": self.k}


def level_of(pre: Tensor, share: float) -> float:
    """The number that a share of the pre-activations is above."""
    flat = pre.reshape(-1)
    rank = min(max(round(share * flat.numel()), 1), flat.numel())
    return float(flat.topk(rank).values[-1])


def encoded(values: Tensor, indices: Tensor) -> Encoded:
    """Lists as `topk_encode` gives them: entries above zero first, by value, then by index."""
    indices, order = indices.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    positive = values > 0
    count = positive.sum(1, dtype=torch.int32)
    width = max(int(count.max()) if len(count) else 0, 1)
    values = values.masked_fill_(~positive, 0)[:, :width]
    indices = indices.gather(1, order).masked_fill_(~positive, 0)[:, :width]
    return Encoded(values.contiguous(), indices.contiguous(), count)
