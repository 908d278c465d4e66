"""Batches of whole sequences with their activations, for what the model reads as such."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from bathyscope.runs.activations import Rows
from bathyscope.stages.masks import kept
from bathyscope.training.fine_tune import Sequences

_DRAWN = 2**16


def drawn(items: range, seed: int) -> Iterator[int]:
    """Items in a random order without end: each comes once, then each again in another order.

    A corpus may have 10^9 items: they are permuted within stretches of 2^16, and these among
    themselves.
    """
    epoch = 0
    while True:
        generator = random.Random(f"{seed} {epoch}")
        stretches = [items[start : start + _DRAWN] for start in range(0, len(items), _DRAWN)]
        generator.shuffle(stretches)
        for stretch in stretches:
            yield from generator.sample(stretch, len(stretch))
        epoch += 1


def sequences(rows: Rows, items: Sequence[int], device: torch.device) -> Sequences:
    """The tokens of items, their rows, and which of these count."""
    corpus = rows.corpus
    masks = np.concatenate([corpus.masks(item, item + 1) for item in items])
    return Sequences(
        tokens=torch.cat([corpus.tokens(item, item + 1) for item in items]).to(device),
        activations=torch.cat([rows.items(item, item + 1) for item in items]).to(device),
        keep=torch.from_numpy(kept(masks)).to(device),
    )
