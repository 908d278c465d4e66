"""Thresholds that give the L0 that is wanted: k active latents on average over some rows.

BatchTopK gets its one threshold: the (k n + 1)-th largest pre-activation of n rows. Thresholds of
JumpReLU have been trained, and come near it; all of a part are multiplied by one factor, the
(k n + 1)-th largest pre-activation / threshold. ReLU and Gated have zero for a threshold: the
(k n + 1)-th largest pre-activation is subtracted from all of b_enc. Magnitudes of Gated do not
depend on it; of those that are zero none counts.

Where no more than k n can be active, thresholds of JumpReLU and biases stay as they are.

The rows should not have been trained on. Latents fit the rows that they were trained on more
sparsely than others: after four passes over 100,000 rows, L0 was 6 % higher on rows that no step
saw than on those that it was calibrated on (SmolLM2, k 16, 1,152 latents).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bathyscope.dictionaries.activation_function import level_of
from bathyscope.dictionaries.batch_topk import BatchTopK
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.gated import Gated
from bathyscope.dictionaries.jumprelu import JumpReLU
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.dictionaries.relu import ReLU
from bathyscope.errors import ConfigError
from bathyscope_kernels import rows_above, topk_encode

_MOST_VALUES = 2**25
_SAMPLED = 2**22
_MOST_LOOKED_AT = 16


@torch.no_grad()
def calibrate(dictionary: AnyDictionary, blocks: Iterable[Tensor]) -> None:
    """Set what decides on L0 from row blocks [n, d_in]; of TopK nothing does.

    Blocks are taken until about 2^25 values are held. Raises `ConfigError` where there are no rows.
    """
    if not isinstance(dictionary.parts[0].activation, BatchTopK | JumpReLU | ReLU | Gated):
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
        if isinstance(activation, BatchTopK):
            found = self._largest(x)
        else:
            found = self._ratios(x) if isinstance(activation, JumpReLU) else self._near_zero(x)
        self._found += found
        self._num_values += sum(part.numel() for part in found)
        self._num_rows += len(x)

    def apply(self) -> None:
        if not self._found:
            raise ConfigError("Thresholds are set from training rows, and there are none.")
        activation, values = self._part.activation, torch.cat(self._found)
        wanted = self._part.k * self._num_rows
        if isinstance(activation, BatchTopK):
            last = min(wanted, values.numel() - 1)
            activation.threshold.fill_(float(values.topk(last + 1).values[-1]))
        elif values.numel() > wanted:
            level = float(values.topk(wanted + 1).values[-1])
            if isinstance(activation, JumpReLU):
                activation.threshold.mul_(level)
            else:
                self._part.b_enc.sub_(level)

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

    def _near_zero(self, x: Tensor) -> list[Tensor]:
        """Pre-activations above zero, or above a lower level where k of a row are not there."""
        part = self._part
        wanted = part.k * len(x)
        some = x[: max(1, _SAMPLED // part.num_latents)]
        pre = torch.addmm(part.b_enc, some.to(part.W_enc.dtype), part.W_enc.T)
        floor, step = min(0.0, level_of(pre, 2 * part.k / part.num_latents)), 0.1 * float(pre.std())
        while True:
            entries = rows_above(x, part.W_enc, part.b_enc, torch.full_like(part.b_enc, floor))
            values = entries.values
            if isinstance(part.activation, Gated):
                values = values[part.activation.magnitudes(entries, part.b_enc) > 0]
            too_many = entries.values.numel() > _MOST_LOOKED_AT * wanted
            if values.numel() > wanted or too_many or floor < float(pre.min()):
                return [values]
            floor, step = floor - step, 2 * step
