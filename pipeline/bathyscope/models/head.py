"""The end of a model without the model: unembedding and the gain of the final norm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bathyscope.models.checkpoints import Checkpoint, open_checkpoint
from bathyscope.models.families import Family, family_of
from bathyscope.models.load import read_config


class Head(NamedTuple):
    """What turns the last residual stream into logits, apart from the norm's division."""

    unembedding: Tensor
    """[vocabulary, d], float32."""
    norm_gain: Tensor
    """[d], float32: what the final norm multiplies by."""


def read_head(folder: str | Path) -> Head | None:
    """Read the two tensors of a model folder; None for a model of no family in the table."""
    family = family_of(read_config(folder))
    if family is None:
        return None
    checkpoint = open_checkpoint(Path(folder))
    # Tied models store the embedding only.
    unembedding = _first(checkpoint, family, (family.unembedding, family.embedding))
    gain = _first(checkpoint, family, (family.final_norm,))
    if unembedding is None or gain is None:
        return None
    return Head(unembedding, gain + 1 if family.gain_from_one else gain)


def _first(
    checkpoint: Checkpoint, family: Family, modules: tuple[str | None, ...]
) -> Tensor | None:
    """The weight of the first of these modules that the checkpoint holds."""
    for module in filter(None, modules):
        for key in _stored_names(f"{module}.weight", family):
            if key in checkpoint.tensors:
                return checkpoint.read(key, "cpu").to(torch.float32)
    return None


def _stored_names(name: str, family: Family) -> Iterator[str]:
    """A parameter's own name, those of older checkpoints, and that of the bare model."""
    yield name
    for current, older in family.checkpoint_names.items():
        if name.startswith(current):
            yield older + name.removeprefix(current)
    yield name.partition(".")[2]
