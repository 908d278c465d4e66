"""What makes latents of pre-activations, and how its gradients go: the part that kinds differ in.

An activation function holds what it has beside W_enc and b_enc: k, thresholds, a second bias. It
encodes for use, and it gives the active latents of a batch with gradients for training. Both are
lists of entries; a [rows, latents] matrix never exists.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bathyscope.dictionaries.peers import Peers
from bathyscope.errors import ConfigError
from bathyscope.values import Json
from bathyscope_kernels import Encoded, Ragged, threshold_encode

_START = 4
MOST_ENTRIES = 2**24
"""Entries of a pass over rows: some 500 MB with what is made of them."""


class Active(NamedTuple):
    """The active latents of a batch while it is trained on, and what the loss needs of them."""

    values: Tensor
    """[nnz]. Carries gradient, also where it is 0."""
    indices: Tensor
    """[nnz] int32."""
    offsets: Tensor
    """[rows + 1] int64: the entries of row r are offsets[r] to offsets[r + 1]."""
    l0: Tensor
    """Number of active latents of all rows; carries gradient where thresholds are trained by it."""
    gate: Tensor | None = None
    """[nnz] what opens the gates (Gated), with gradient."""


class ActivationFunction(nn.Module):
    """Base of all. `k` is the number of active latents per row that is wanted.

    It may be None, not known, where encoding does not need it.
    """

    name: ClassVar[str]
    passes: ClassVar[bool] = True
    """Whether a batch may be gone through in several passes over its rows."""
    encodes_with_k: ClassVar[bool] = False
    """Whether k decides which latents are active."""

    def __init__(self, k: int | None, num_latents: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if k is None and self.encodes_with_k:
            raise ConfigError(f"k is not set, but {self.name} encodes with it: give dictionary.k.")
        if k is not None and not 1 <= k <= num_latents:
            raise ConfigError(
                f"dictionary.k is {k} and the dictionary has {num_latents} latents. k must lie "
                f"between 1 and {num_latents}: choose a smaller k or more latents."
            )
        self.known_k = k
        """k, or None where a file that this came from did not say it."""
        self.num_latents = num_latents

    @property
    def k(self) -> int:
        """The number of active latents per row that is wanted.

        Raises `ConfigError` where it is not known.
        """
        if self.known_k is None:
            raise ConfigError(
                f"The L0 of this {self.name} dictionary is not known: k is null in its "
                "config.json, because the file that it was converted from does not say it. Count "
                "the active latents on rows of yours, and convert it again with convert.k."
            )
        return self.known_k

    def encode(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Encoded:
        """The active latents of rows x [rows, d_in], for use."""
        raise NotImplementedError

    def active(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None, peers: Peers
    ) -> Active:
        """The active latents of rows x - centre, with gradients.

        Raises `TooManyEntries` where they are more than `MOST_ENTRIES`.
        """
        raise NotImplementedError

    def linear(self, W_enc: Tensor, b_enc: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """w [n, d_in] and b [n] of these latents: where one is active, its value is w · x + b.

        x has its centre subtracted.
        """
        return W_enc[latents], b_enc[latents]

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

    def training_state(self) -> Json:
        """What training goes on from, beside its tensors."""
        return {}

    def load_training_state(self, state: Json) -> None:
        """Go on from a `training_state`."""

    def settings(self) -> Json:
        """What config.json says of it."""
        return {"activation": self.name, "k": self.known_k}


def level_of(pre: Tensor, share: float) -> float:
    """The number that a share of the pre-activations is above."""
    flat = pre.reshape(-1)
    rank = min(max(round(share * flat.numel()), 1), flat.numel())
    return float(flat.topk(rank).values[-1])


def positive(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Ragged:
    """Every positive pre-activation of rows x [rows, d_in]."""
    zeros = torch.zeros_like(b_enc, dtype=torch.promote_types(b_enc.dtype, torch.float32))
    return Ragged(*threshold_encode(x, W_enc, b_enc, zeros)[:3])


def start_bias(pre: Tensor, k: int, num_latents: int) -> float:
    """The b_enc with which four times k latents are active at first, rather than half of all."""
    return -level_of(pre, min(_START * k / num_latents, 0.5))


def kept(entries: Ragged, keep: Tensor) -> Ragged:
    """The marked entries; gradients go back to their values."""
    before = torch.nn.functional.pad(keep.cumsum(0), (1, 0))
    return Ragged(entries.values[keep], entries.indices[keep], before[entries.offsets])


def padded(entries: Ragged) -> Encoded:
    """Entries above zero as lists of one width, by value, then by latent.

    That is how `topk_encode` gives them; the width is that of the fullest row, at least 1.
    """
    entries = kept(entries, ~(entries.values <= 0))
    counts = entries.counts
    width = max(int(counts.max()) if len(counts) else 0, 1)
    used = torch.arange(width, device=counts.device) < counts[:, None]
    values = entries.values.new_zeros(used.shape).masked_scatter_(used, entries.values)
    indices = entries.indices.new_zeros(used.shape).masked_scatter_(used, entries.indices)
    return ordered(values, indices)


def ordered(values: Tensor, indices: Tensor) -> Encoded:
    """Lists [rows, width] whose entries ascend by latent, by value; equals stay in their order."""
    values, order = values.sort(dim=1, descending=True, stable=True)
    used = values != 0
    count = used.sum(1, dtype=torch.int32)
    width = max(int(count.max()) if len(count) else 0, 1)
    indices = indices.gather(1, order).masked_fill_(~used, 0)
    return Encoded(values[:, :width].contiguous(), indices[:, :width].contiguous(), count)
