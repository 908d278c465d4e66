"""The batches of a ladder: the same sequences in the same order for every model.

The sequences of a corpus are in the order of its shuffled documents. A batch takes one from each of
as many streams as it has places, each stream a stretch of the corpus, so that the sequences of one
long document do not meet in a batch, and the corpus is read from front to back. In later epochs the
streams are moved against each other, and other sequences meet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bathyscope.errors import CorpusError
from bathyscope.runs.corpus import Corpus
from bathyscope.values import TRAIN

_WINDOW_STEPS = 64


class LadderBatches:
    """Token ids by step, counted over all epochs."""

    def __init__(
        self, corpus: Corpus, batch_items: int, device: torch.device | str = "cpu"
    ) -> None:
        self._corpus = corpus
        self._items = batch_items
        self._device = device
        there = corpus.split_range(TRAIN)
        self._first = there.start
        self.steps_per_epoch = (there.stop - there.start) // batch_items
        if not self.steps_per_epoch:
            raise CorpusError(
                f"The corpus has {there.stop - there.start} training sequences, and a step takes "
                f"{batch_items}. Give more text, or a smaller ladder.batch_items."
            )
        self._window: tuple[int, Tensor] | None = None

    def batch(self, step: int) -> Tensor:
        """Token ids [batch_items, P], int64."""
        number, place = divmod(step, _WINDOW_STEPS)
        if self._window is None or self._window[0] != number:
            self._window = (number, self._read(number * _WINDOW_STEPS))
        return self._window[1][place].to(self._device)

    def items(self, step: int) -> list[int]:
        """Which items of the corpus a step takes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return [
            self._first + stream * self.steps_per_epoch + self._moved(stream, epoch, place)
            for stream in range(self._items)
        ]

    def _moved(self, stream: int, epoch: int, place: int) -> int:
        return (place + epoch * stream) % self.steps_per_epoch

    def _read(self, first_step: int) -> Tensor:
        """A window of batches [steps, batch_items, P], read stream by stream."""
        wanted = [self.items(first_step + step) for step in range(_WINDOW_STEPS)]
        streams = []
        for stream in range(self._items):
            items = [row[stream] for row in wanted]
            streams.append(torch.cat([self._corpus.tokens(a, b) for a, b in _runs(items)]))
        return torch.stack(streams, dim=1)


def _runs(items: list[int]) -> list[tuple[int, int]]:
    """Consecutive items as ranges, in order."""
    found: list[tuple[int, int]] = []
    for item in items:
        if found and found[-1][1] == item:
            found[-1] = (found[-1][0], item + 1)
        else:
            found.append((item, item + 1))
    return found
