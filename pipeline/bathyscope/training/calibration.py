"""Thresholds that give the L0 that is wanted: k active latents on average over training rows.

BatchTopK gets its one threshold: the (k n + 1)-th largest pre-activation of n rows. Thresholds of
JumpReLU have been trained, and come near it; all of a part are multiplied by one factor, the
(k n + 1)-th largest pre-activation / threshold.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bathyscope.dictionaries.batch_topk import BatchTopK
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.jumprelu import JumpReLU
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError
from bathyscope_kernels import rows_above, topk_encode

_MOST_VALUES = 2**25


@torch.no_grad()
def calibrate(dictionary: AnyDictionary, blocks: Iterable[Tensor]) -> None:
    """Set the thresholds of a BatchTopK or JumpReLU dictionary from row blocks [n, d_in].

    Other dictionaries are left alone. Blocks are taken until about 2^25 values are held. Raises
    `ConfigError` where there are no rows.
    """
    if not isinstance(dictionary.parts[0].activation, BatchTopK | JumpReLU):
        return
    levels = [_Level(part) for part in dictionary.parts]
    centre = dictionary.b_dec if dictionary.subtracts_b_dec else None
    for block in blocks:
        for level, columns in zip(levels, dictionary.read_columns, strict=True):
            rows = block[:, columns]
            level.add(rows if centre is None else rows - centre)
        if all(level.is_full for level in levels):
            break
    for level in levels:
        level.apply()


class _Level:
    """What competes for the k n places of one part: the largest of n rows."""

    def __init__(self, part: Dictionary) -> None:
        self._part = part
        self._found: list[Tensor] = []
        self._num_rows = 0
        self._num_values = 0

    @property
    def is_full(self) -> bool:
        return self._num_values >= _MOST_VALUES

    def add(self, x: Tensor) -> None:
        activation = self._part.activation
        found = self._largest(x) if isinstance(activation, BatchTopK) else self._ratios(x)
        self._found += found
        self._num_values += sum(part.numel() for part in found)
        self._num_rows += len(x)

    def apply(self) -> None:
        if not self._found:
            raise ConfigError("Thresholds are set from training rows, and there are none.")
        activation, values = self._part.activation, torch.cat(self._found)
        wanted = min(self._part.k * self._num_rows + 1, values.numel())
        level = float(values.topk(wanted).values[-1])
        if isinstance(activation, BatchTopK):
            activation.threshold.fill_(level)
        elif isinstance(activation, JumpReLU) and wanted > self._part.k * self._num_rows:
            activation.threshold.mul_(level)

    def _largest(self, x: Tensor) -> list[Tensor]:
        """The 4 k largest of each row, and more of the few that need it."""
        part = self._part
        slots = min(4 * part.k, part.num_latents)
        found = topk_encode(x, part.W_enc, part.b_enc, slots).values
        level = found.flatten().topk(min(part.k * len(x), found.numel())).values[-1]
        full = found[:, -1] > 0.8 * level
        more = min(8 * slots, part.num_latents)
        rest = topk_encode(x[full], part.W_enc, part.b_enc, more).values
        return [found[~full].flatten(), rest.flatten()]

    def _ratios(self, x: Tensor) -> list[Tensor]:
        """pre / threshold of each row where it is above a half, or lower if k are not there."""
        part, share = self._part, 0.5
        assert isinstance(part.activation, JumpReLU)
        threshold = part.activation.threshold.clamp_min(1e-12)
        while True:
            entries = rows_above(x, part.W_enc, part.b_enc, share * threshold)
            if entries.values.numel() > part.k * len(x) or share < 1e-3:
                return [entries.values / threshold[entries.indices.long()]]
            share /= 4
