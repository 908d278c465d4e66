"""The threshold of BatchTopK: where k latents are active on average over training rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bathyscope.dictionaries.batch_topk import BatchTopK
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError
from bathyscope_kernels import topk_encode

_MOST_VALUES = 2**25


@torch.no_grad()
def calibrate(dictionary: AnyDictionary, blocks: Iterable[Tensor]) -> None:
    """Set the thresholds of a BatchTopK dictionary from row blocks [n, d_in]; others are left.

    Each part gets the (k n + 1)-th largest pre-activation of all n rows, so that on these rows k
    are above it on average. Blocks are taken until about 2^25 values are held.
    """
    if not isinstance(dictionary.parts[0].activation, BatchTopK):
        return
    thresholds = [_Threshold(part) for part in dictionary.parts]
    for block in blocks:
        for part, threshold, columns in zip(
            dictionary.parts, thresholds, dictionary.read_columns, strict=True
        ):
            rows = block[:, columns]
            centre = dictionary.b_dec if dictionary.subtracts_b_dec else None
            threshold.add(part, rows if centre is None else rows - centre)
        if all(threshold.is_full for threshold in thresholds):
            break
    for part, threshold in zip(dictionary.parts, thresholds, strict=True):
        assert isinstance(part.activation, BatchTopK)
        part.activation.threshold.fill_(threshold.value())


class _Threshold:
    """The largest pre-activations of rows of one part: 4 k of each, more where a row needs it."""

    def __init__(self, part: Dictionary) -> None:
        self._k = part.k
        self._slots = min(4 * part.k, part.num_latents)
        self._found: list[Tensor] = []
        self._num_rows = 0

    @property
    def is_full(self) -> bool:
        return self._num_rows * self._slots >= _MOST_VALUES

    def add(self, part: Dictionary, x: Tensor) -> None:
        found = topk_encode(x, part.W_enc, part.b_enc, self._slots).values
        level = found.flatten().topk(min(self._k * len(x), found.numel())).values[-1]
        full = found[:, -1] > 0.8 * level
        more = min(8 * self._slots, part.num_latents)
        self._found.append(found[~full].flatten())
        if full.any():
            self._found.append(topk_encode(x[full], part.W_enc, part.b_enc, more).values.flatten())
        self._num_rows += len(x)

    def value(self) -> float:
        if not self._found:
            raise ConfigError("A BatchTopK threshold needs training rows, and got none.")
        values = torch.cat(self._found)
        wanted = min(self._k * self._num_rows + 1, values.numel())
        return float(values.topk(wanted).values[-1])
