"""Batches mixed from several sources by weight: segments, runs, corpora."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bathyscope.errors import ConfigError
from bathyscope.stores.batches import ShuffledBatches


class MixedBatches:
    """Batches of which each source gives a fixed number of rows, one source after the other.

    They depend on (seed, epoch, step) only, as those of the sources do. An epoch ends with the
    source that is used up first; the next one draws the others' rows anew. Each rank gets its part
    of every source, so the rows of a step are the same for any number of ranks.
    """

    def __init__(self, sources: Sequence[ShuffledBatches]) -> None:
        assert sources
        self.sources = tuple(sources)
        self.batch_rows = sum(source.batch_rows for source in sources)
        self.num_rows = sum(source.num_rows for source in sources)

    def num_steps(self, seed: int, epoch: int) -> int:
        """Whole batches in that epoch."""
        return min(source.num_steps(seed, epoch) for source in self.sources)

    def batch(self, seed: int, epoch: int, step: int) -> Tensor:
        """Rows [batch_rows / world, Σ d] in their logical dtype."""
        if step >= self.num_steps(seed, epoch):
            raise IndexError(f"step {step} of an epoch of {self.num_steps(seed, epoch)} steps")
        return torch.cat([source.batch(seed, epoch, step) for source in self.sources])

    def origins(self, seed: int, epoch: int, step: int) -> npt.NDArray[np.int64]:
        """Source, part, item and position of each row [rows, 4]."""
        found = []
        for number, source in enumerate(self.sources):
            rows = source.origins(seed, epoch, step)
            found.append(np.insert(rows, 0, number, axis=1))
        return np.concatenate(found)


def split_batch(batch_rows: int, weights: Sequence[float], *, multiple: int = 1) -> list[int]:
    """Rows of a batch that each source gives: by weight, in multiples, with largest remainders.

    Raises `ConfigError` for weights that are no shares, and when a source would give no row.
    """
    if not weights or not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError(f"Weights of sources are {list(weights)}. Numbers above 0 are wanted.")
    if batch_rows % multiple:
        raise ConfigError(f"A batch of {batch_rows} rows is no multiple of {multiple}.")
    wanted = np.array(weights, dtype=np.float64) / sum(weights) * (batch_rows // multiple)
    parts = np.floor(wanted).astype(int)
    order = np.argsort(parts - wanted, kind="stable")
    parts[order[: batch_rows // multiple - int(parts.sum())]] += 1
    if (parts == 0).any():
        raise ConfigError(
            f"A batch of {batch_rows} rows leaves none to a source of weight {min(weights):g} of "
            f"{sum(weights):g}. Choose a larger train.batch_rows or another weight."
        )
    return [int(part) * multiple for part in parts]
