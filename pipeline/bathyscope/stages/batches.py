"""What a model is shown of a corpus: batches of one fixed shape, in the form that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bathyscope.runs.corpus import Corpus
from bathyscope.values import Unit


class TokenBatches:
    """Tokens [batch, positions] of the items of a unit; the last batch is padded with zeros."""

    def __init__(self, corpus: Corpus, batch_items: int, device: torch.device) -> None:
        self._corpus = corpus
        self._batch_items = batch_items
        self._device = device

    def of(self, unit: Unit) -> Iterator[Tensor]:
        """The batches of a unit, on the device."""
        for part in self._corpus.tokens(unit.start, unit.stop).split(self._batch_items):
            yield _moved(padded(part, self._batch_items), self._device)


class ImageBatches:
    """Pixels [batch, 3, height, width] in the model's dtype, less their mean, over deviation.

    `mean` and `deviation` are of pixels from 0 to 1, one of each channel.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_items: int,
        device: torch.device,
        *,
        dtype: torch.dtype,
        mean: Sequence[float],
        deviation: Sequence[float],
    ) -> None:
        self._corpus = corpus
        self._batch_items = batch_items
        self._device = device
        self._dtype = dtype
        self._mean = torch.tensor(mean, device=device).view(3, 1, 1)
        self._deviation = torch.tensor(deviation, device=device).view(3, 1, 1)

    def of(self, unit: Unit) -> Iterator[Tensor]:
        """The batches of a unit, on the device."""
        for start in range(unit.start, unit.stop, self._batch_items):
            stop = min(start + self._batch_items, unit.stop)
            part = padded(self._corpus.images(start, stop), self._batch_items)
            # Bytes cross to the device, and become numbers there.
            pixels = _moved(part, self._device).permute(0, 3, 1, 2).float() / 255
            yield ((pixels - self._mean) / self._deviation).to(self._dtype)


def padded(items: Tensor, count: int) -> Tensor:
    """Items [n, …] with zeros after them, to as many as `count`."""
    missing = count - len(items)
    return torch.cat([items, items.new_zeros(missing, *items.shape[1:])]) if missing else items


def _moved(batch: Tensor, device: torch.device) -> Tensor:
    # From pageable memory the copy would wait for the GPU.
    return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch
