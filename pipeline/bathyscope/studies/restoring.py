"""One loaded model for all shares and methods: its weights are put back after each.

kept = Snapshot(prunable(model).weights)
for share in (0.25, 0.5, 0.75):
    with kept.changing():
        ...                 # prune, measure
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from bathyscope.studies.prunable import PrunableWeight


class Snapshot:
    """Copies of prunable weights in CPU memory: as many bytes as the weights have."""

    def __init__(self, weights: Sequence[PrunableWeight]) -> None:
        self._weights = tuple(weights)
        self._values: list[Tensor] = [
            w.parameter.detach().to("cpu", copy=True) for w in self._weights
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put every weight back, bit by bit."""
        for weight, value in zip(self._weights, self._values, strict=True):
            weight.parameter.copy_(value)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Whatever the block does to the weights is undone at its end, also after an exception."""
        try:
            yield
        finally:
            self.restore()


@contextmanager
def changed(weights: Sequence[PrunableWeight]) -> Iterator[None]:
    """A snapshot for one block only: the weights are put back at its end."""
    with Snapshot(weights).changing():
        yield
