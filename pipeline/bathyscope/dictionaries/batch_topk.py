"""BatchTopK (Bussmann, Leask and Nanda 2024, "BatchTopK Sparse Autoencoders", arXiv:2412.06410).

Training keeps, of each group of `group_rows` rows, the k * group_rows largest positive
pre-activations, however they spread over its rows. In use a row must not depend on its neighbours:

    z = pre where pre > threshold, else 0

with one threshold, chosen after training so that k latents are active on average.

What is largest is found among the pre-activations above a level guessed from the batch before; a
group that has too few of them is encoded again with a lower one. So the choice is exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bathyscope.dictionaries.activation_function import (
    MOST_ENTRIES,
    ActivationFunction,
    Active,
    kept,
    level_of,
    padded,
)
from bathyscope.dictionaries.peers import Peers, groups_of
from bathyscope.errors import ConfigError
from bathyscope.values import Json
from bathyscope_kernels import Encoded, Ragged, rows_above, threshold_encode

_BELOW = 0.9
"""The guess is so far below the smallest that was kept in the last batch."""
_SAMPLED = 2**22


class BatchTopK(ActivationFunction):
    """The largest pre-activations of a group of rows; above one threshold in use."""

    name = "batch_topk"
    encodes_with_k = True
    passes = False

    def __init__(
        self,
        k: int | None,
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
        self._level: float | None = None

    def encode(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Encoded:
        """Every pre-activation of rows x [rows, d_in] above the threshold.

        Raises `ConfigError` before the threshold is set (`training.calibration`).
        """
        if math.isnan(float(self.threshold)):
            raise ConfigError(
                "This BatchTopK dictionary has no threshold yet: it is set at the end of training. "
                "Train it to the end, or calibrate it."
            )
        threshold = self.threshold.to(torch.promote_types(b_enc.dtype, torch.float32))
        return padded(Ragged(*threshold_encode(x, W_enc, b_enc, threshold.expand_as(b_enc))[:3]))

    def active(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None, peers: Peers
    ) -> Active:
        """The largest of each group, with gradients of their values."""
        level = self._level
        if level is None:
            level = peers.least(self._guess(x, W_enc, b_enc, centre))
        while True:
            entries = rows_above(
                x, W_enc, b_enc, torch.full_like(b_enc, level).detach(), centre=centre,
                most_entries=MOST_ENTRIES,
            )  # fmt: skip
            groups = groups_of(entries, self.group_rows)
            counts = torch.tensor([stop - start for _, start, stop in groups], device=x.device)
            wanted = torch.tensor([self.k * rows for rows, _, _ in groups], device=x.device)
            if level == 0 or bool((peers.total(counts) >= wanted).all()):
                break
            level = level / 2 if level > 1e-3 * (self._level or level) else 0.0
        entries = kept(entries, peers.largest(entries, self.k, self.group_rows, len(b_enc)))
        smallest = float(entries.values.detach().amin()) if len(entries.values) else 0.0
        self._level = _BELOW * max(peers.least(smallest), 0.0)
        return Active(*entries, entries.values.new_tensor(float(entries.values.numel())))

    @torch.no_grad()
    def _guess(self, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None) -> float:
        """A level from some rows that k of all latents should be above."""
        some = x[: max(1, _SAMPLED // len(b_enc))]
        pre = torch.addmm(b_enc, some if centre is None else some - centre, W_enc.T)
        return _BELOW * max(level_of(pre, self.k / self.num_latents), 0.0)

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Scale the threshold."""
        self.threshold.mul_(factor)
        self._level = None

    def training_state(self) -> Json:
        """The level that was guessed last."""
        return {"level": self._level}

    def load_training_state(self, state: Json) -> None:
        """Take the level up again: sums are in the order of what is above it."""
        self._level = state["level"]

    def settings(self) -> Json:
        """Also the rows of a group."""
        return {**super().settings(), "group_rows": self.group_rows}
